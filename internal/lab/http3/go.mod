module github.com/tokentripper/tokentripper/internal/lab/http3

go 1.26.0

replace github.com/tokentripper/tokentripper => ../../..

require (
	github.com/quic-go/quic-go v0.65.0
	github.com/tokentripper/tokentripper v0.0.0
)

require (
	github.com/golang-jwt/jwt/v5 v5.3.1 // indirect
	github.com/quic-go/qpack v0.6.0 // indirect
	golang.org/x/crypto v0.54.0 // indirect
	golang.org/x/net v0.56.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
	golang.org/x/text v0.40.0 // indirect
)
