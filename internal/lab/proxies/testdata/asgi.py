import hashlib


async def chunks(receive):
    more = True
    while more:
        message = await receive()
        if message['type'] != 'http.request':
            raise ConnectionResetError('the upload was given up')
        more = message.get('more_body', False)
        yield message.get('body', b'')


async def app(scope, receive, send):
    if scope['type'] != 'http':
        return
    headers = dict(scope['headers'])

    async def answer(status, text):
        await send({'type': 'http.response.start', 'status': status,
                    'headers': [(b'content-length', str(len(text)).encode())]})
        await send({'type': 'http.response.body', 'body': text})

    if not headers[b'authorization'].endswith(b'stale'):
        total = hashlib.sha256()
        async for chunk in chunks(receive):
            total.update(chunk)
        await answer(200, total.hexdigest().encode())
        return
    after = float(headers.get(b'refuse-after', b'inf'))
    if after:
        async for chunk in chunks(receive):
            after -= len(chunk)
            if after <= 0:
                break
    await answer(401, b'x' * int(headers.get(b'refusal-length', b'0')))
