package grpcauth_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/tokentripper/tokentripper/tokensource"
)

// A server that answers at the end only, to a sender whose message waits for the window
// when the refusal comes.
func TestASenderGoesOnWhileASecondStreamIsReceived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, auth := world(t)
		auth.MaxStream = 4 << 20
		a.before = func(context.Context) error { time.Sleep(10 * time.Millisecond); return nil }
		a.talk = func(s duplex) error {
			for {
				if _, err := s.Recv(); err != nil {
					return s.Send(&testpb.StreamingOutputCallResponse{})
				}
			}
		}
		client := a.dial(t, auth)
		i.revoke()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s, err := client.FullDuplexCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		received := receiving(s)
		for range 100 {
			if err := s.Send(&testpb.StreamingOutputCallRequest{Payload: payload(strings.Repeat("x", 10<<10))}); err != nil {
				t.Fatal(err)
			}
		}
		s.CloseSend()
		if err := <-received; err != nil {
			t.Errorf("got %v, want a message", err)
		}
	})
}

// A receiver waits for a message, and the server for one that is sent after its headers.
func TestHeaderReturnsWhileAMessageIsAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, auth := world(t)
		a.talk = func(s duplex) error {
			s.SendHeader(nil)
			s.Recv()
			return s.Send(&testpb.StreamingOutputCallResponse{})
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s, err := a.dial(t, auth).FullDuplexCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		received := receiving(s)
		synctest.Wait()
		header, err := s.Header()
		s.Send(&testpb.StreamingOutputCallRequest{})
		if got := <-received; got != nil || err != nil || len(header["accepted"]) != 1 {
			t.Errorf("got header %v with error %v, and %v, want a message", header, err, got)
		}
	})
}

// receiving receives a message meanwhile.
func receiving(s testpb.TestService_FullDuplexCallClient) <-chan error {
	received := make(chan error, 1)
	go func() {
		_, err := s.Recv()
		received <- err
	}()
	return received
}

// finishes returns an option that counts the ends of a call.
func finishes() (*[]error, grpc.CallOption) {
	got := new([]error)
	return got, grpc.OnFinish(func(err error) { *got = append(*got, err) })
}

func TestOnFinishIsCalledOnceWhenSenderAndReceiverMeetARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, auth := world(t)
		auth.MaxStream = 4 << 20
		auth.Source = tokensource.Static(&tokensource.Token{AccessToken: "static"})
		a.before = func(context.Context) error { time.Sleep(10 * time.Millisecond); return nil }
		finished, option := finishes()
		s, err := a.dial(t, auth).FullDuplexCall(t.Context(), option)
		if err != nil {
			t.Fatal(err)
		}
		received := receiving(s)
		for err == nil { // until the window is full
			err = s.Send(&testpb.StreamingOutputCallRequest{Payload: payload(strings.Repeat("x", 10<<10))})
		}
		if got := <-received; err != io.EOF || status.Code(got) != codes.Unauthenticated || len(*finished) != 1 {
			t.Errorf("got %v, %v and OnFinish %v, want EOF, Unauthenticated and one", err, got, *finished)
		}
	})
}

func TestOnFinishIsCalledOnceWhenARefusedStreamIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, auth := world(t)
		client := a.dial(t, auth)
		i.revoke()
		ctx, cancel := context.WithCancel(t.Context())
		finished, option := finishes()
		s, err := client.FullDuplexCall(ctx, option)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the refusal arrives
		cancel()
		synctest.Wait()
		_, err = s.Recv()
		if err == nil || len(*finished) != 1 || status.Code((*finished)[0]) != codes.Canceled {
			t.Errorf("got %v and OnFinish %v, want Canceled once", err, *finished)
		}
	})
}

func TestAStreamWhoseSourcePanicsLeavesNoLockAndCallsOnFinishOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, auth := world(t)
		auth.Source = tokensource.Func(func(_ context.Context, old *tokensource.Token) (*tokensource.Token, error) {
			if old != nil {
				panic("no token")
			}
			return &tokensource.Token{AccessToken: "secret-1"}, nil
		})
		client := a.dial(t, auth)
		i.revoke()
		finished, option := finishes()
		s, err := client.FullDuplexCall(t.Context(), option)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			func() {
				defer func() { recover() }()
				s.Recv()
			}()
			if err := s.Send(&testpb.StreamingOutputCallRequest{}); err != io.EOF {
				t.Errorf("got %v, want EOF", err)
			}
		}
		if len(*finished) != 1 || status.Code((*finished)[0]) != codes.Unauthenticated {
			t.Errorf("got OnFinish %v, want Unauthenticated once", *finished)
		}
	})
}

func TestTheContextOfAStreamServesCallsOfOtherConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, auth := world(t)
		s, err := a.dial(t, auth).FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		alone := testpb.NewTestServiceClient(a.conn(t, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(auth)))
		if _, err := alone.UnaryCall(s.Context(), request("")); err != nil {
			t.Errorf("got %v, want no error", err)
		}
	})
}

// With the Auth in the interceptors and in the connection's credentials.
func TestACallWithCredentialsOfItsOwnCarriesOneToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, auth := world(t)
		a.check = func(token string) error { return fmt.Errorf("%s", token) }
		client := a.dial(t, auth, grpc.WithPerRPCCredentials(auth))
		option := grpc.PerRPCCredentials(own{"authorization": "mine"})
		_, unary := client.UnaryCall(t.Context(), request(""), option)
		s, err := client.FullDuplexCall(t.Context(), option)
		if err != nil {
			t.Fatal(err)
		}
		_, stream := s.Recv()
		for _, err := range []error{unary, stream} {
			if got := status.Convert(err).Message(); got != "mine" {
				t.Errorf("got %q, want the caller's credentials only", got)
			}
		}
	})
}
