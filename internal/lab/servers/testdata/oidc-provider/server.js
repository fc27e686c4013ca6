// oidc-provider with its defaults, but for short lifetimes and rotation. /test/login
// grants what a login in a browser would, and /test/revoke makes an access token
// invalid and leaves the login alone.
import http from 'node:http'
import Provider from 'oidc-provider'

const port = Number(process.argv[2])
const client = {
  client_id: 'app', client_secret: 'a secret of the suite', token_endpoint_auth_method: 'client_secret_basic',
  grant_types: ['authorization_code', 'refresh_token'], redirect_uris: ['http://127.0.0.1/callback'],
}
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [client],
  rotateRefreshToken: true,
  ttl: { AccessToken: 2, RefreshToken: 3600, Grant: 3600 },
  features: { introspection: { enabled: true }, revocation: { enabled: true }, devInteractions: { enabled: false } },
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
})

async function login() {
  const grant = new provider.Grant({ accountId: 'peter', clientId: 'app' })
  const scope = 'openid offline_access'
  grant.addOIDCScope(scope)
  const refresh = new provider.RefreshToken({
    accountId: 'peter', client: await provider.Client.find('app'), grantId: await grant.save(), scope,
    gty: 'authorization_code', authTime: Math.floor(Date.now() / 1000),
  })
  return JSON.stringify({ refresh_token: await refresh.save() })
}

const app = provider.callback()
http.createServer((req, res) => {
  const [, path, token] = req.url.match(/^\/test\/(login|revoke)\/?(.*)$/) ?? []
  if (!path) return app(req, res)
  const done = path === 'login' ? login() : provider.AccessToken.find(token).then((found) => found?.destroy())
  done.then((text) => res.end(text), (err) => { res.statusCode = 500; res.end(String(err)) })
}).listen(port, '127.0.0.1')
