#!/usr/bin/env bash
# Software: oidc-provider 9.13.3 (npm), with node.
#
# Behaviour: a client that revokes its access token at the revocation endpoint (RFC
# 7009) loses the refresh token, too. The default revokeGrantPolicy returns false
# for an access token there, which keeps the grant alone: lib/helpers/revoke.js
# deletes the refresh tokens of the grant whatever it returns. RFC 7009 section 2.1
# allows it, but a client that revokes access tokens must expect to log in again.
#
# Seen:
#   after a refresh: 200
#   the access token is revoked: 200
#   refresh with the newest refresh token: 400 invalid_grant
#   the same without the revocation: 200
#
# Exits with 1 if that changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit oidc-provider@9.13.3 >/dev/null
cat >main.mjs <<'JS'
import http from 'node:http'
import Provider from 'oidc-provider'

const server = http.createServer().listen(0, '127.0.0.1')
await new Promise((ready) => server.on('listening', ready))
const issuer = `http://127.0.0.1:${server.address().port}`
const provider = new Provider(issuer, {
  clients: [{
    client_id: 'app', client_secret: 'secret', token_endpoint_auth_method: 'client_secret_post',
    grant_types: ['authorization_code', 'refresh_token'], redirect_uris: ['http://127.0.0.1/callback'],
  }],
  features: { revocation: { enabled: true }, devInteractions: { enabled: false } },
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
})
server.on('request', provider.callback())

// A login, as the authorization endpoint would end it.
async function login() {
  const scope = 'openid offline_access'
  const grant = new provider.Grant({ accountId: 'user', clientId: 'app' })
  grant.addOIDCScope(scope)
  const token = new provider.RefreshToken({
    accountId: 'user', client: await provider.Client.find('app'), grantId: await grant.save(), scope,
    gty: 'authorization_code', authTime: Math.floor(Date.now() / 1000),
  })
  return token.save()
}

async function post(path, form) {
  const body = new URLSearchParams({ client_id: 'app', client_secret: 'secret', ...form })
  const reply = await fetch(issuer + path, { method: 'POST', body })
  const text = await reply.text()
  return { status: reply.status, ...(text ? JSON.parse(text) : {}) }
}

const refresh = (token) => post('/token', { grant_type: 'refresh_token', refresh_token: token })

for (const revokes of [true, false]) {
  const first = await login()
  const got = await refresh(first)
  if (revokes) {
    console.log(`after a refresh: ${got.status}`)
    const revoked = await post('/token/revocation', { token: got.access_token })
    console.log(`the access token is revoked: ${revoked.status}`)
  }
  const next = await refresh(got.refresh_token ?? first)
  console.log(`${revokes ? 'refresh with the newest refresh token' : 'the same without the revocation'}: ${next.status}${next.error ? ' ' + next.error : ''}`)
}
server.close()
JS
node main.mjs 2>/dev/null | { grep -v NOTICE || true; } | tee seen
diff seen - <<'SEEN'
after a refresh: 200
the access token is revoked: 200
refresh with the newest refresh token: 400 invalid_grant
the same without the revocation: 200
SEEN
