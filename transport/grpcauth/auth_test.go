package grpcauth_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport/grpcauth"
)

func TestARevocationUnderManyCallsAndStreamsCostsOneRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, auth := world(t)
		a.before = func(context.Context) error { time.Sleep(time.Millisecond); return nil } // until all are on their way
		client := a.dial(t, auth)
		i.revoke()
		var wg sync.WaitGroup
		for n := range 1000 {
			wg.Go(func() {
				want := fmt.Sprint(n)
				got, err := client.UnaryCall(t.Context(), request(want))
				if body := string(got.GetPayload().GetBody()); err != nil || body != want {
					t.Errorf("got %q and error %v, want %q", body, err, want)
				}
			})
		}
		for n := range 100 {
			wg.Go(func() { echo(t, client, fmt.Sprint(n)) })
		}
		wg.Wait()
		if got := i.issued.Load() - 1; got != 1 || a.refused.Load() != 1100 {
			t.Errorf("%d refreshes and %d refusals, want 1 and 1100", got, a.refused.Load())
		}
	})
}

// echo sends three messages on a stream and wants them back.
func echo(t *testing.T, client testpb.TestServiceClient, text string) {
	s, err := client.FullDuplexCall(t.Context())
	if err != nil {
		t.Error(err)
		return
	}
	for range 3 {
		if err := s.Send(&testpb.StreamingOutputCallRequest{Payload: payload(text)}); err != nil {
			t.Errorf("Send: %v", err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Errorf("CloseSend: %v", err)
	}
	for n := range 4 {
		m, err := s.Recv()
		if n == 3 && err == io.EOF {
			return
		}
		if got := string(m.GetPayload().GetBody()); err != nil || got != text {
			t.Errorf("Recv: got %q and error %v, want %q", got, err, text)
			return
		}
	}
	t.Error("there is a fourth message")
}

func TestAServerThatRefusesEverythingCausesFewRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, auth := world(t)
		a.check = func(string) error { return errors.New("no") }
		client := a.dial(t, auth)
		began := time.Now()
		for time.Since(began) < 10*time.Second {
			if _, err := client.UnaryCall(t.Context(), request("")); status.Code(err) != codes.Unauthenticated {
				t.Errorf("got %v, want Unauthenticated", err)
			}
			s, err := client.StreamingOutputCall(t.Context(), &testpb.StreamingOutputCallRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err = s.Recv(); status.Code(err) != codes.Unauthenticated {
				t.Errorf("got %v, want Unauthenticated", err)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if got := i.issued.Load() - 1; got < 2 || got > 6 {
			t.Errorf("%d refreshes in 10 s, want 2 to 6", got)
		}
	})
}

func TestWithoutATokenACallFailsAtOnce(t *testing.T) {
	other := errors.New("out of order")
	for _, test := range []struct {
		err  error
		code codes.Code
	}{
		{fmt.Errorf("%w: log in", tokensource.ErrReauthenticate), codes.Unauthenticated},
		{other, codes.Unavailable},
	} {
		auth := &grpcauth.Auth{AllowInsecure: true, Source: tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
			return nil, test.err
		})}
		conn, err := grpc.NewClient("dns:///nobody.invalid", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
			grpc.WithChainUnaryInterceptor(auth.Unary), grpc.WithChainStreamInterceptor(auth.Stream))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		client := testpb.NewTestServiceClient(conn)
		_, unary := client.UnaryCall(t.Context(), request(""))
		_, stream := client.FullDuplexCall(t.Context())
		for _, got := range []error{unary, stream} {
			if !errors.Is(got, test.err) || status.Code(got) != test.code || !strings.Contains(got.Error(), test.err.Error()) {
				t.Errorf("got %v, want code %v and an error that wraps %v", got, test.code, test.err)
			}
		}
	}
}

func TestARefusedCallWhoseLoginHasEndedNeedsALogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, _ := world(t)
		first := true
		auth := &grpcauth.Auth{AllowInsecure: true, Source: tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
			if first {
				first = false
				return i.Token(ctx, old)
			}
			return nil, tokensource.ErrReauthenticate
		})}
		client := a.dial(t, auth)
		a.check = func(token string) error { return fmt.Errorf("%s is revoked", token) }
		_, err := client.UnaryCall(t.Context(), request(""))
		if !errors.Is(err, tokensource.ErrReauthenticate) || status.Code(err) != codes.Unauthenticated || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v, want Unauthenticated that wraps ErrReauthenticate, without the token", err)
		}
	})
}

func TestEachCallWaitsForATokenWithinItsOwnDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, auth := world(t)
		i.latency = time.Second
		i.revoke()
		client := a.dial(t, auth)
		var wg sync.WaitGroup
		for timeout, want := range map[time.Duration]codes.Code{300 * time.Millisecond: codes.DeadlineExceeded, 3 * time.Second: codes.OK} {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				defer cancel()
				began := time.Now()
				_, err := client.UnaryCall(ctx, request(""))
				if status.Code(err) != want || time.Since(began) > min(timeout, time.Second) {
					t.Errorf("timeout %v: got %v after %v, want %v", timeout, err, time.Since(began), want)
				}
			})
		}
		wg.Wait()
		if got := i.issued.Load() - 1; got != 1 {
			t.Errorf("%d refreshes, want 1", got)
		}
	})
}

func TestOptionsTellOfTheSecondCallAndOnFinishOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, auth := world(t)
		a.headers = true
		client := a.dial(t, auth)
		i.revoke()
		var header, trailer metadata.MD
		var from peer.Peer
		var finished []error
		_, err := client.UnaryCall(t.Context(), request(""), grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from),
			grpc.OnFinish(func(err error) { finished = append(finished, err) }))
		if err != nil || fmt.Sprint(header["call"], header["accepted"], trailer["call"]) != "[2] [yes] [2]" || from.Addr == nil || fmt.Sprint(finished) != "[<nil>]" {
			t.Errorf("got error %v, header %v, trailer %v, peer %v, OnFinish %v", err, header, trailer, &from, finished)
		}

		finished = nil
		a.check = func(string) error { return errors.New("no") }
		auth.Source = tokensource.Static(&tokensource.Token{AccessToken: "static"})
		s, _ := client.FullDuplexCall(t.Context(), grpc.OnFinish(func(err error) { finished = append(finished, err) }))
		_, err = s.Recv()
		if status.Code(err) != codes.Unauthenticated || len(finished) != 1 || finished[0] != err {
			t.Errorf("a refusal: got %v and OnFinish %v, want Unauthenticated and the same", err, finished)
		}
	})
}

// own are credentials of the caller.
type own map[string]string

func (o own) GetRequestMetadata(context.Context, ...string) (map[string]string, error) { return o, nil }
func (own) RequireTransportSecurity() bool                                             { return false }

func TestACallWithCredentialsOfItsOwnPassesUntouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, auth := world(t)
		a.check = func(token string) error { return errors.New(token) }
		client := a.dial(t, auth)
		inMetadata := metadata.AppendToOutgoingContext(t.Context(), "Authorization", "mine")
		_, byMetadata := client.UnaryCall(inMetadata, request(""))
		_, byOption := client.UnaryCall(t.Context(), request(""), grpc.PerRPCCredentials(own{"authorization": "mine"}))
		s, _ := client.FullDuplexCall(inMetadata)
		_, byStream := s.Recv()
		for _, err := range []error{byMetadata, byOption, byStream} {
			if s := status.Convert(err); s.Code() != codes.Unauthenticated || s.Message() != "mine" {
				t.Errorf("got %v, want Unauthenticated with the caller's credentials", err)
			}
		}
		if got := i.issued.Load() - 1; got != 0 || a.calls.Load() != 3 {
			t.Errorf("%d refreshes and %d calls, want 0 and 3", got, a.calls.Load())
		}
	})
}

func TestAnUnencryptedConnectionCarriesNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, auth := world(t)
		auth.AllowInsecure = false
		client := a.dial(t, auth)
		for range 3 {
			_, err := client.UnaryCall(t.Context(), request(""))
			if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "insecure connection") {
				t.Errorf("got %v, want Unauthenticated for an insecure connection", err)
			}
		}
		if got := i.issued.Load() - 1; got != 0 || a.calls.Load() != 0 {
			t.Errorf("%d refreshes and %d calls, want none", got, a.calls.Load())
		}
	})
}

func TestARetryOfGRPCCarriesTheNewestToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, auth := world(t)
		var sent []string
		a.before = func(ctx context.Context) error {
			sent = append(sent, strings.Join(metadata.ValueFromIncomingContext(ctx, "authorization"), ","))
			if len(sent) == 1 {
				i.revoke()
				auth.Source.(*tokensource.Cache).Set(ctx, &tokensource.Token{AccessToken: "secret-77"})
				return status.Error(codes.Unavailable, "come again")
			}
			return nil
		}
		client := a.dial(t, auth, grpc.WithDefaultServiceConfig(`{"methodConfig": [{"name": [{}], "retryPolicy": {
			"maxAttempts": 3, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`))
		_, err := client.UnaryCall(t.Context(), request(""))
		if got := fmt.Sprint(sent); err != nil || got != "[Bearer secret-1 Bearer secret-77]" {
			t.Errorf("got error %v and attempts with %s", err, got)
		}
	})
}

// An interceptor that is chained after that of Auth logs all that it gets.
func TestWhatInterceptorsSeeShowsNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, auth := world(t)
		var log strings.Builder
		client := testpb.NewTestServiceClient(a.conn(t, append(plain(auth), grpc.WithChainUnaryInterceptor(
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				err := invoker(ctx, method, req, reply, cc, opts...)
				for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
					fmt.Fprintf(&log, verb+verb+verb+verb, ctx, opts, opts[0], auth)
				}
				return err
			}))...))
		if _, err := client.UnaryCall(t.Context(), request("")); err != nil {
			t.Fatal(err)
		}
		if got := log.String(); strings.Contains(got, "secret") || strings.Contains(got, fmt.Sprintf("%x", "secret")) {
			t.Errorf("got %s", got)
		}
	})
}

func TestPerRPCCredentialsSendATokenAndAddNothingToTheInterceptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, auth := world(t)
		insecurely := grpc.WithTransportCredentials(insecure.NewCredentials())
		alone := testpb.NewTestServiceClient(a.conn(t, insecurely, grpc.WithPerRPCCredentials(auth)))
		both := a.dial(t, auth, grpc.WithPerRPCCredentials(auth))
		for name, client := range map[string]testpb.TestServiceClient{"alone": alone, "both": both} {
			if _, err := client.UnaryCall(t.Context(), request("")); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		auth.AllowInsecure = false
		var c credentials.PerRPCCredentials = auth
		if _, err := grpc.NewClient("passthrough:x", insecurely, grpc.WithPerRPCCredentials(c)); err == nil {
			t.Error("NewClient took an insecure connection")
		}
	})
}
