package grpcauth_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport/grpcauth"
)

// A server revokes the client's token. The client does not notice.
func Example() {
	srv := tokentest.Start()
	defer srv.Close()
	addr, stop := serve(srv)
	defer stop()

	auth := &grpcauth.Auth{
		Source: &tokensource.Cache{Source: &tokensource.ClientCredentials{
			Endpoint: tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret},
		}},
		AllowInsecure: true, // the server has no certificate
	}
	conn, err := grpc.NewClient(addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor(auth.Unary),
		grpc.WithChainStreamInterceptor(auth.Stream))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	client := healthpb.NewHealthClient(conn)
	for range 2 {
		resp, err := client.Check(context.Background(), &healthpb.HealthCheckRequest{})
		fmt.Println(resp.GetStatus(), err)
		srv.RevokeAll()
	}
	fmt.Println(srv.Counts().Issued, "tokens")
	// Output:
	// SERVING <nil>
	// SERVING <nil>
	// 2 tokens
}

// A health check that gRPC makes by itself does not run through interceptors. With
// WithPerRPCCredentials it carries a token, but a refused one is not made again.
func ExampleAuth_GetRequestMetadata() {
	srv := tokentest.Start()
	defer srv.Close()
	addr, stop := serve(srv)
	defer stop()

	auth := &grpcauth.Auth{
		Source: &tokensource.Cache{Source: &tokensource.ClientCredentials{
			Endpoint: tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret},
		}},
		AllowInsecure: true,
	}
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(auth))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	client := healthpb.NewHealthClient(conn)
	for range 2 {
		_, err := client.Check(context.Background(), &healthpb.HealthCheckRequest{})
		fmt.Println(status.Code(err))
		srv.RevokeAll()
	}
	// Output:
	// OK
	// Unauthenticated
}

// A refused stream is made again from a recording of what it has sent. MaxStream bounds the
// recording of one stream, MaxMemory those of all.
func ExampleAuth_Stream() {
	srv := tokentest.Start()
	defer srv.Close()
	addr, stop := serve(srv)
	defer stop()

	cache := &tokensource.Cache{Source: &tokensource.ClientCredentials{
		Endpoint: tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret},
	}}
	auth := &grpcauth.Auth{Source: cache, AllowInsecure: true, MaxStream: 1 << 20, MaxMemory: 100 << 20}
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithChainStreamInterceptor(auth.Stream))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	ctx := context.Background()
	if err := cache.Set(ctx, &tokensource.Token{AccessToken: "revoked"}); err != nil {
		log.Fatal(err)
	}
	watch, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		log.Fatal(err)
	}
	resp, err := watch.Recv()
	fmt.Println(resp.GetStatus(), err)
	// Output: SERVING <nil>
}

// The error of a call says that a login is needed.
func ExampleAuth_Unary() {
	auth := &grpcauth.Auth{Source: &tokensource.Cache{Source: &tokensource.RefreshToken{}}} // no login yet
	conn, err := grpc.NewClient("localhost:1",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor(auth.Unary))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	_, err = healthpb.NewHealthClient(conn).Check(context.Background(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	fmt.Println(status.Code(err), errors.Is(err, tokensource.ErrReauthenticate))
	// Output: Unauthenticated true
}

// serve starts a server that accepts the tokens of srv.
func serve(srv *tokentest.Server) (addr string, stop func()) {
	authorize := func(ctx context.Context) error {
		sent := metadata.ValueFromIncomingContext(ctx, "authorization")
		if len(sent) != 1 || len(sent[0]) < 7 || srv.Check(sent[0][len("Bearer "):]) != nil {
			return status.Error(codes.Unauthenticated, "no valid token")
		}
		return nil
	}
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		log.Fatal(err)
	}
	s := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			if err := authorize(ctx); err != nil {
				return nil, err
			}
			return handle(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			if err := authorize(ss.Context()); err != nil {
				return err
			}
			return handle(srv, ss)
		}))
	healthpb.RegisterHealthServer(s, health.NewServer())
	go s.Serve(l)
	return l.Addr().String(), s.Stop
}
