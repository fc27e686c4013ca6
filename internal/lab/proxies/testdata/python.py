import hashlib, ssl, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        if not self.headers['Authorization'].endswith('stale'):
            total = hashlib.sha256()
            for chunk in self.body():
                total.update(chunk)
            self.answer(200, total.hexdigest().encode())
            return
        after = float(self.headers.get('Refuse-After', 'inf'))
        for chunk in self.body() if after else ():
            after -= len(chunk)
            if after <= 0:
                break
        self.answer(401, b'x' * int(self.headers.get('Refusal-Length', 0)))

    do_GET = do_POST

    def body(self):
        left = int(self.headers.get('Content-Length', 0))
        chunked = 'Transfer-Encoding' in self.headers
        while left or chunked:
            if not left:
                left = int(self.rfile.readline(), 16)
                last = left == 0
            while left:
                data = self.rfile.read(min(left, 65536))
                if not data:
                    raise ConnectionResetError('the body is cut short')
                left -= len(data)
                yield data
            if chunked:
                self.rfile.readline()
                chunked = not last

    def answer(self, status, text):
        self.send_response(status)
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *args):
        pass  # the client has gone


plain = Server(('127.0.0.1', {{port (http "plain")}}), Handler)
threading.Thread(target=plain.serve_forever).start()
tls = Server(('127.0.0.1', {{port (https "plain")}}), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('{{dir}}/cert.pem', '{{dir}}/key.pem')
tls.socket = context.wrap_socket(tls.socket, server_side=True, do_handshake_on_connect=False)
tls.serve_forever()
