package grpcauth_test

import (
	"fmt"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport/grpcauth"
)

// Over loopback, with rotating refresh tokens: 1,000 calls and 100 streams at a time.
func TestARevocationCostsOneTokenRequestAndNoCall(t *testing.T) {
	srv := tokentest.NewServer(t)
	addr, stop := serve(srv)
	defer stop()
	auth := &grpcauth.Auth{AllowInsecure: true, Source: &tokensource.Cache{Source: &tokensource.RefreshToken{
		Endpoint:     tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret},
		RefreshToken: srv.RefreshToken(),
	}}}
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor(auth.Unary), grpc.WithChainStreamInterceptor(auth.Stream))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := healthpb.NewHealthClient(conn)
	for round := range 3 {
		before := srv.Counts()
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				if _, err := client.Check(t.Context(), new(healthpb.HealthCheckRequest)); err != nil {
					t.Errorf("call: %v", err)
				}
			})
		}
		for range 100 {
			wg.Go(func() {
				s, err := client.Watch(t.Context(), new(healthpb.HealthCheckRequest))
				if err == nil {
					_, err = s.Recv()
				}
				if err != nil {
					t.Errorf("stream: %v", err)
				}
			})
		}
		wg.Wait()
		after := srv.Counts()
		if got := fmt.Sprint(after.TokenRequests-before.TokenRequests, after.Reuses); got != "1 0" {
			t.Errorf("round %d: got token requests and reused refresh tokens %s, want 1 0", round, got)
		}
		srv.RevokeAccess()
	}
}
