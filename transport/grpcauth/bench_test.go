//go:build unix

package grpcauth_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/oauth"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport/grpcauth"
)

// encrypted are transport credentials that only say so.
type encrypted struct{ credentials.CommonAuthInfo }

var private = encrypted{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}

func (encrypted) AuthType() string { return "none" }
func (encrypted) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}
func (e encrypted) Clone() credentials.TransportCredentials { return e }
func (encrypted) OverrideServerName(string) error           { return nil }
func (e encrypted) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, e, nil
}
func (e encrypted) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, e, nil
}

const long = 600 // bytes of a token

// contenders are ways to send a token.
func contenders() map[string][]grpc.DialOption {
	token := strings.Repeat("x", long)
	expiry := time.Now().Add(time.Hour)
	auth := &grpcauth.Auth{Source: &tokensource.Cache{Source: tokensource.Static(&tokensource.Token{AccessToken: token, Expiry: expiry})}}
	return map[string][]grpc.DialOption{
		"nothing":  nil,
		"constant": {grpc.WithPerRPCCredentials(constant{"authorization": "Bearer " + token})},
		"oauth": {grpc.WithPerRPCCredentials(oauth.TokenSource{TokenSource: oauth2.ReuseTokenSource(
			&oauth2.Token{AccessToken: token, Expiry: expiry}, nil)})},
		"grpcauth": {grpc.WithChainUnaryInterceptor(auth.Unary)},
	}
}

// constant is the cheapest PerRPCCredentials that there can be.
type constant map[string]string

func (c constant) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return c, nil
}
func (constant) RequireTransportSecurity() bool { return true }

// BenchmarkAccepted measures a unary call that is accepted: the processor time and the
// allocations beyond those of a call without credentials. In each round all contenders
// make calls, one after the other; the metrics are medians of the rounds. The server
// runs in the same process, so its share of a longer header counts.
//
// Of the allocations of grpcauth, one is its own: the call. One is the server's. The
// other four are those of gRPC for any PerRPCCredentials, even constant ones.
func BenchmarkAccepted(b *testing.B) {
	clients := make(map[string]testpb.TestServiceClient)
	for name, opts := range contenders() {
		a := &api{open: true}
		clients[name] = testpb.NewTestServiceClient(a.conn(b, append(opts, grpc.WithTransportCredentials(private))...))
	}
	call := func(name string) {
		if _, err := clients[name].UnaryCall(b.Context(), request("")); err != nil {
			b.Fatal(err)
		}
	}
	over := make(map[string][]time.Duration)
	for range max(b.N, 10) {
		round := make(map[string]time.Duration)
		for name := range clients {
			round[name] = processorTime(b, func() { call(name) })
		}
		for name, took := range round {
			over[name] = append(over[name], took-round["nothing"])
		}
	}
	none := testing.AllocsPerRun(1000, func() { call("nothing") })
	for _, name := range []string{"constant", "oauth", "grpcauth"} {
		b.ReportMetric(float64(median(over[name])), name+"-ns")
		b.ReportMetric(float64(median(over[name]))/float64(median(over["oauth"])), name+"/oauth")
		b.ReportMetric(testing.AllocsPerRun(1000, func() { call(name) })-none, name+"-allocs")
	}
	b.ReportMetric(0, "ns/op")
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// processorTime returns the processor time that this process needs for a call, which
// other processes disturb less than the time that passes.
func processorTime(b *testing.B, call func()) time.Duration {
	const calls = 200
	used := func() time.Duration {
		var r syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
			b.Fatal(err)
		}
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	began := used()
	for range calls {
		call()
	}
	return (used() - began) / calls
}
