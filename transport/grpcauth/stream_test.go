package grpcauth_test

import (
	"bytes"
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
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/tokentripper/tokentripper/transport/grpcauth"
)

// upload sends n messages of a KiB from one buffer, and returns the size that arrived.
func upload(t *testing.T, client testpb.TestServiceClient, n int) (int32, error) {
	t.Helper()
	s, err := client.StreamingInputCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	buffer := bytes.Repeat([]byte("x"), 1<<10)
	for range n {
		err := s.Send(&testpb.StreamingInputCallRequest{Payload: &testpb.Payload{Body: buffer}})
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the refusal arrives
	}
	m, err := s.CloseAndRecv()
	return m.GetAggregatedPayloadSize(), err
}

func TestARefusedUploadIsSentAgainWhole(t *testing.T) {
	for _, headers := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			a, i, auth := world(t)
			a.headers = headers
			client := a.dial(t, auth)
			i.revoke()
			if got, err := upload(t, client, 100); err != nil || got != 100<<10 {
				t.Errorf("headers before the refusal %v: %d bytes arrived, and error %v, want %d", headers, got, err, 100<<10)
			}
		})
	}
}

// A refusal that arrives while less than MaxStream is sent is found out while sending,
// unless headers came before it.
func TestAnUploadBeyondTheBoundIsSentAgainIfItIsRefusedEarly(t *testing.T) {
	for headers, want := range map[bool]codes.Code{false: codes.OK, true: codes.Unauthenticated} {
		synctest.Test(t, func(t *testing.T) {
			a, i, auth := world(t)
			a.headers, auth.MaxStream = headers, 16<<10
			client := a.dial(t, auth)
			i.revoke()
			got, err := upload(t, client, 100)
			if status.Code(err) != want || err == nil && got != 100<<10 {
				t.Errorf("headers %v: %d bytes arrived, and error %v, want %v", headers, got, err, want)
			}
			if got, err := upload(t, client, 100); err != nil || got != 100<<10 {
				t.Errorf("the next: %d bytes arrived, and error %v, want %d", got, err, 100<<10)
			}
			if got := i.issued.Load() - 1; got != 1 {
				t.Errorf("%d refreshes, want 1", got)
			}
		})
	}
}

func TestMessagesAreRecordedAsTheyWereSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, auth := world(t)
		client := a.dial(t, auth)
		i.revoke()
		s, err := client.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		m := &testpb.StreamingOutputCallRequest{Payload: payload("first")}
		s.Send(m)
		copy(m.Payload.Body, "other")
		s.Send(m)
		if header, err := s.Header(); err != nil || len(header["accepted"]) != 1 {
			t.Errorf("got header %v and error %v", header, err)
		}
		for _, want := range []string{"first", "other"} {
			if got, err := s.Recv(); err != nil || string(got.Payload.GetBody()) != want {
				t.Errorf("got %v and error %v, want %s", got, err, want)
			}
		}
	})
}

func TestAStreamIsNotMadeAgain(t *testing.T) {
	use := map[string]func(*testing.T, *api, *grpcauth.Auth, testpb.TestService_FullDuplexCallClient){
		"beyond MaxStream": func(_ *testing.T, _ *api, auth *grpcauth.Auth, s testpb.TestService_FullDuplexCallClient) {
			auth.MaxStream = 100
			s.Send(&testpb.StreamingOutputCallRequest{Payload: payload(strings.Repeat("x", 200))})
		},
		"without a recording": func(_ *testing.T, _ *api, auth *grpcauth.Auth, s testpb.TestService_FullDuplexCallClient) {
			auth.MaxStream = -1
			s.Send(&testpb.StreamingOutputCallRequest{})
		},
		"after Context": func(_ *testing.T, _ *api, _ *grpcauth.Auth, s testpb.TestService_FullDuplexCallClient) {
			s.Context()
		},
		"after Header": func(_ *testing.T, a *api, _ *grpcauth.Auth, s testpb.TestService_FullDuplexCallClient) {
			s.Header()
		},
	}
	for name, use := range use {
		synctest.Test(t, func(t *testing.T) {
			a, i, auth := world(t)
			a.headers = name == "after Header"
			client := a.dial(t, auth)
			i.revoke()
			s, err := client.FullDuplexCall(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			use(t, a, auth, s)
			for range 2 {
				if _, err := s.Recv(); status.Code(err) != codes.Unauthenticated {
					t.Errorf("%s: got %v, want Unauthenticated", name, err)
				}
			}
			if got := s.Trailer()["call"]; len(got) != 1 || got[0] != "1" {
				t.Errorf("%s: got trailer %v, want that of call 1", name, got)
			}
			auth.MaxStream = 0
			echo(t, client, "next")
			if got := i.issued.Load() - 1; got != 1 || a.calls.Load() != 2 {
				t.Errorf("%s: %d refreshes and %d calls, want 1 and 2", name, got, a.calls.Load())
			}
		})
	}
}

func TestAStreamThatIsRefusedAfterAMessageIsNotMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, auth := world(t)
		a.late = true
		client := a.dial(t, auth)
		i.revoke()
		s, err := client.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.Send(&testpb.StreamingOutputCallRequest{})
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
		s.Send(&testpb.StreamingOutputCallRequest{})
		if _, err := s.Recv(); status.Code(err) != codes.Unauthenticated {
			t.Errorf("got %v, want Unauthenticated", err)
		}
		if got := i.issued.Load() - 1; got != 1 || a.calls.Load() != 1 {
			t.Errorf("%d refreshes and %d calls, want 1 and 1", got, a.calls.Load())
		}
	})
}

// A server that sends more than its window while it is sent to takes no more until its
// messages are received.
func TestASecondStreamReceivesWhileTheRecordingIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, auth := world(t)
		auth.MaxStream = 4 << 20
		a.reads = 100
		client := a.dial(t, auth)
		i.revoke()
		s, err := client.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range a.reads {
			if err := s.Send(&testpb.StreamingOutputCallRequest{Payload: payload(strings.Repeat("x", 10<<10))}); err != nil {
				t.Fatal(err)
			}
		}
		s.CloseSend()
		for got := 0; ; got++ {
			if _, err := s.Recv(); err != nil {
				if err != io.EOF || got != a.reads {
					t.Errorf("got %d messages and %v, want %d and EOF", got, err, a.reads)
				}
				return
			}
		}
	})
}

// A goroutine sends while another receives, and tokens are revoked all the time.
func TestSendingAndReceivingAtOnceSurvivesRevocations(t *testing.T) {
	for _, headers := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			a, i, auth := world(t)
			a.headers, a.reads = headers, 3
			client := a.dial(t, auth)
			var wg sync.WaitGroup
			for round := range 20 {
				if round%5 == 0 {
					i.revoke()
				}
				s, err := client.FullDuplexCall(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				wg.Go(func() {
					for n := range 30 {
						if err := s.Send(&testpb.StreamingOutputCallRequest{Payload: payload(fmt.Sprint(n))}); err != nil {
							t.Errorf("Send: %v", err)
						}
					}
					s.CloseSend()
				})
				wg.Go(func() {
					for n := range 30 {
						if m, err := s.Recv(); err != nil || string(m.Payload.GetBody()) != fmt.Sprint(n) {
							t.Errorf("got %v and error %v, want %d", m, err, n)
							return
						}
					}
					if _, err := s.Recv(); err != io.EOF {
						t.Errorf("got %v, want EOF", err)
					}
				})
				time.Sleep(time.Duration(round) * time.Millisecond)
			}
			wg.Wait()
			if got := i.issued.Load() - 1; got != 4 {
				t.Errorf("%d refreshes, want 4", got)
			}
		})
	}
}

// While many streams are refused, half of them are cancelled at some moment.
func TestCancelledStreamsLeaveNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, auth := world(t)
		i.latency = 3 * time.Millisecond
		a.before = func(context.Context) error { time.Sleep(2 * time.Millisecond); return nil }
		client := a.dial(t, auth)
		for n := range 100 {
			i.revoke()
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*100*time.Microsecond)
			s, err := client.FullDuplexCall(ctx)
			for err == nil {
				err = s.Send(&testpb.StreamingOutputCallRequest{})
				if err == nil {
					_, err = s.Recv()
				}
				time.Sleep(100 * time.Microsecond)
			}
			if s != nil && err == io.EOF {
				_, err = s.Recv()
			}
			if status.Code(err) != codes.DeadlineExceeded && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("timeout %d: got %v, want DeadlineExceeded", n, err)
			}
			cancel()
		}
		echo(t, client, "after all")
	})
}

// A text is its own codec. It is a message of the first Go API of Protocol Buffers, whose
// content only the codec knows.
type text struct{ s string }

func (*text) Reset()         {}
func (*text) String() string { return "" }
func (*text) ProtoMessage()  {}

func (text) Marshal(v any) ([]byte, error)      { return []byte(v.(*text).s), nil }
func (text) Unmarshal(data []byte, v any) error { v.(*text).s = string(data); return nil }
func (text) Name() string                       { return "text" }

func TestAMessageThatOnlyItsCodecKnowsIsNotRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, auth := world(t)
		conn := a.conn(t, plain(auth)...)
		i.revoke()
		const method = "/grpc.testing.TestService/FullDuplexCall"
		s, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, grpc.ForceCodec(text{}))
		if err != nil {
			t.Fatal(err)
		}
		s.SendMsg(&text{})
		if err := s.RecvMsg(new(text)); status.Code(err) != codes.Unauthenticated {
			t.Errorf("got %v, want Unauthenticated", err)
		}
	})
}
