module github.com/tokentripper/tokentripper/tokensource/oauth2source

go 1.26.0

require (
	github.com/tokentripper/tokentripper v0.0.0
	golang.org/x/oauth2 v0.38.0
)

require (
	github.com/golang-jwt/jwt/v5 v5.3.1 // indirect
	golang.org/x/sync v0.24.0 // indirect
)

replace github.com/tokentripper/tokentripper => ../..
