package servers_test

var servers = []server{
	{name: "oidc-provider", start: startOIDCProvider},
	{name: "glewlwyd", start: startGlewlwyd},
	{name: "better-auth", start: startBetterAuth},
	{name: "hydra", start: startHydra},
	{name: "zitadel/oidc", start: startZitadel},
}
