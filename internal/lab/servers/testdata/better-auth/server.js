// better-auth with @better-auth/oauth-provider and its defaults, but for access
// tokens of 3 s, which counts from a whole second: they live 2 s at least.
// /test/client tells the id and secret of a client.
import http from 'node:http'
import { betterAuth } from 'better-auth'
import { memoryAdapter } from 'better-auth/adapters/memory'
import { toNodeHandler } from 'better-auth/node'
import { jwt } from 'better-auth/plugins'
import { oauthProvider } from '@better-auth/oauth-provider'

const port = Number(process.argv[2])
const tables = ['user', 'session', 'account', 'verification', 'jwks', 'rateLimit', 'oauthClient', 'oauthResource', 'oauthClientResource',
  'oauthRefreshToken', 'oauthAccessToken', 'oauthConsent', 'oauthClientAssertion']
const auth = betterAuth({
  baseURL: `http://127.0.0.1:${port}`,
  secret: 'a secret of the suite, a secret of the suite',
  database: memoryAdapter(Object.fromEntries(tables.map((name) => [name, []]))),
  emailAndPassword: { enabled: true },
  plugins: [jwt(), oauthProvider({ loginPage: '/login', consentPage: '/consent', accessTokenExpiresIn: 3 })],
})
const { headers } = await auth.api.signUpEmail({
  body: { name: 'Peter', email: 'peter@example.com', password: 'a password' }, returnHeaders: true,
})
const client = await auth.api.adminCreateOAuthClient({
  headers: { cookie: headers.getSetCookie().map((cookie) => cookie.split(';')[0]).join('; ') },
  body: { redirect_uris: ['https://app.example.com/callback'], token_endpoint_auth_method: 'client_secret_basic', skip_consent: true,
    grant_types: ['authorization_code', 'refresh_token'], scope: 'openid offline_access' },
})
const handle = toNodeHandler(auth)
http.createServer((req, res) => {
  if (req.url === '/test/client') return res.end(JSON.stringify(client))
  handle(req, res)
}).listen(port, '127.0.0.1')
