module github.com/tokentripper/tokentripper/internal/lab/faults

go 1.26.0

require github.com/tokentripper/tokentripper v0.0.0

require (
	github.com/golang-jwt/jwt/v5 v5.3.1 // indirect
	golang.org/x/net v0.62.0
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)

replace github.com/tokentripper/tokentripper => ../../..
