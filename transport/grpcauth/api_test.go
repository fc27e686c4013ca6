package grpcauth_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport/grpcauth"
)

// An issuer is a Source whose tokens are secret-1, secret-2, ….
type issuer struct {
	issued  atomic.Int32
	revoked atomic.Int32 // up to this one
	latency time.Duration
}

func (i *issuer) Token(ctx context.Context, _ *tokensource.Token) (*tokensource.Token, error) {
	select {
	case <-time.After(i.latency):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &tokensource.Token{AccessToken: fmt.Sprintf("secret-%d", i.issued.Add(1))}, nil
}

func (i *issuer) revoke() { i.revoked.Store(i.issued.Load()) }

func (i *issuer) check(token string) error {
	var n int32
	if _, err := fmt.Sscanf(token, "secret-%d", &n); err != nil || n <= i.revoked.Load() {
		return fmt.Errorf("no such token: %s", token)
	}
	return nil
}

// An api is a server of gRPC that echoes what it gets with a good token.
type api struct {
	testpb.UnimplementedTestServiceServer
	check   func(token string) error
	open    bool                        // unary calls need no token
	headers bool                        // it sends headers before it refuses
	before  func(context.Context) error // it looks at the token
	late    bool                        // a stream is refused after its first message
	reads   int                         // so many messages before a stream is refused
	talk    func(duplex) error          // it serves a stream with a good token
	calls   atomic.Int32
	refused atomic.Int32
}

// authorize returns the error for a call without a good token.
func (a *api) authorize(ctx context.Context) error {
	n := a.calls.Add(1)
	grpc.SetTrailer(ctx, metadata.Pairs("call", fmt.Sprint(n)))
	if a.headers {
		grpc.SetHeader(ctx, metadata.Pairs("call", fmt.Sprint(n)))
	}
	if a.before != nil {
		if err := a.before(ctx); err != nil {
			return err
		}
	}
	sent := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(sent) != 1 {
		return status.Errorf(codes.Unauthenticated, "%d tokens", len(sent))
	}
	if err := a.check(strings.TrimPrefix(sent[0], "Bearer ")); err != nil {
		a.refused.Add(1)
		return status.Error(codes.Unauthenticated, err.Error())
	}
	grpc.SetHeader(ctx, metadata.Pairs("accepted", "yes"))
	return nil
}

func (a *api) UnaryCall(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	if a.open {
		return &testpb.SimpleResponse{}, nil
	}
	if err := a.authorize(ctx); err != nil {
		return nil, err
	}
	return &testpb.SimpleResponse{Payload: req.Payload}, nil
}

func (a *api) StreamingOutputCall(req *testpb.StreamingOutputCallRequest, s grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	if err := a.authorize(s.Context()); err != nil {
		return err
	}
	return s.Send(&testpb.StreamingOutputCallResponse{Payload: req.Payload})
}

func (a *api) StreamingInputCall(s grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error {
	if err := a.authorize(s.Context()); err != nil {
		return err
	}
	var size int32
	for {
		m, err := s.Recv()
		if err == io.EOF {
			return s.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: size})
		}
		if err != nil {
			return err
		}
		size += int32(len(m.Payload.GetBody()))
	}
}

type duplex = grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]

func (a *api) FullDuplexCall(s duplex) error {
	err := a.authorize(s.Context())
	if err != nil && !a.late {
		for range a.reads {
			s.Recv()
		}
		return err
	}
	if err == nil && a.talk != nil {
		return a.talk(s)
	}
	for first := true; ; first = false {
		m, failed := s.Recv()
		switch {
		case failed == io.EOF:
			return nil
		case failed != nil:
			return failed
		case err != nil && !first:
			return err
		}
		if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: m.Payload}); err != nil {
			return err
		}
	}
}

// dial starts the api and returns a client of it, in this process.
func (a *api) dial(t testing.TB, auth *grpcauth.Auth, opts ...grpc.DialOption) testpb.TestServiceClient {
	t.Helper()
	return testpb.NewTestServiceClient(a.conn(t, append(opts, plain(auth)...)...))
}

// plain are the options of a connection in plain text.
func plain(auth *grpcauth.Auth) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor(auth.Unary),
		grpc.WithChainStreamInterceptor(auth.Stream),
	}
}

func (a *api) conn(t testing.TB, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 16)
	srv := grpc.NewServer()
	testpb.RegisterTestServiceServer(srv, a)
	go srv.Serve(l)
	conn, err := grpc.NewClient("passthrough:api.example", append(opts,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		srv.Stop()
	})
	return conn
}

// world returns an api, its issuer and an Auth over a Cache that has a token.
func world(t testing.TB) (*api, *issuer, *grpcauth.Auth) {
	t.Helper()
	i := &issuer{latency: 10 * time.Millisecond}
	cache := &tokensource.Cache{Source: i}
	if _, err := cache.Token(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	return &api{check: i.check}, i, &grpcauth.Auth{Source: cache, AllowInsecure: true}
}

func payload(s string) *testpb.Payload { return &testpb.Payload{Body: []byte(s)} }

func request(s string) *testpb.SimpleRequest { return &testpb.SimpleRequest{Payload: payload(s)} }
