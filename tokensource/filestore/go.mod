module github.com/tokentripper/tokentripper/tokensource/filestore

go 1.26.0

require (
	github.com/gofrs/flock v0.13.2
	github.com/tokentripper/tokentripper v0.0.0
	golang.org/x/sys v0.49.0
)

require (
	github.com/golang-jwt/jwt/v5 v5.3.1 // indirect
	golang.org/x/sync v0.24.0 // indirect
)

replace github.com/tokentripper/tokentripper => ../..
