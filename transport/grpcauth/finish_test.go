package grpcauth_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/tokentripper/tokentripper/tokensource"
)

// A breaker has interceptors that fail one call, before or after they make it.
type breaker struct {
	fails int // the first call or the second
	made  bool
	code  codes.Code
	calls int
}

func (b *breaker) fail(made bool) error {
	if !made {
		b.calls++
	}
	if b.calls == b.fails && made == b.made {
		return status.Error(b.code, "broken")
	}
	return nil
}

func (b *breaker) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if err := b.fail(false); err != nil {
		return err
	}
	err := invoker(ctx, method, req, reply, cc, opts...)
	if failed := b.fail(true); failed != nil {
		return failed
	}
	return err
}

func (b *breaker) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if err := b.fail(false); err != nil {
		return nil, err
	}
	s, err := streamer(ctx, desc, cc, method, opts...)
	if failed := b.fail(true); failed != nil {
		return nil, failed
	}
	return s, err
}

// receive makes a stream and receives all of it.
func receive(ctx context.Context, client testpb.TestServiceClient, opts ...grpc.CallOption) error {
	s, err := client.StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{}, opts...)
	for err == nil {
		_, err = s.Recv()
	}
	if err == io.EOF {
		return nil
	}
	return err
}

func TestOnFinishIsCalledOnceThoughAnInterceptorFailsACall(t *testing.T) {
	for _, broken := range []breaker{
		{fails: 1, code: codes.Unavailable},
		{fails: 2, code: codes.Unavailable},
		{fails: 1, made: true, code: codes.Unavailable},
		{fails: 1, made: true, code: codes.Unauthenticated},
		{fails: 2, made: true, code: codes.Unavailable},
		{fails: 2, made: true, code: codes.Unauthenticated},
	} {
		for _, streams := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				a, i, auth := world(t)
				b := broken
				client := testpb.NewTestServiceClient(a.conn(t, append(plain(auth),
					grpc.WithChainUnaryInterceptor(b.unary), grpc.WithChainStreamInterceptor(b.stream))...))
				if b.fails == 2 {
					i.revoke()
				}
				ctx, cancel := context.WithCancel(t.Context())
				finished, option := finishes()
				var err error
				if streams {
					err = receive(ctx, client, option)
				} else {
					_, err = client.UnaryCall(ctx, request(""), option)
				}
				cancel() // streams that are open below the interceptor
				synctest.Wait()
				want := b.code
				if b.fails == 1 && want == codes.Unauthenticated {
					want = codes.OK // the second call is accepted
				}
				if status.Code(err) != want || len(*finished) != 1 || status.Code((*finished)[0]) != want {
					t.Errorf("%+v, streams %v: got %v and OnFinish %v, want %v once", broken, streams, err, *finished, want)
				}
			})
		}
	}
}

func TestOnFinishIsCalledOnceWithoutAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, auth := world(t)
		auth.Source = tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
			return nil, errors.New("no token")
		})
		client := a.dial(t, auth)
		finished, option := finishes()
		_, unary := client.UnaryCall(t.Context(), request(""), option)
		stream := receive(t.Context(), client, option)
		if got, want := fmt.Sprint(*finished), fmt.Sprint([]error{unary, stream}); unary == nil || got != want {
			t.Errorf("got OnFinish %s, want %s", got, want)
		}
	})
}

func TestOnFinishIsCalledOnceForAnEndThatSendOrHeaderFinds(t *testing.T) {
	message := &testpb.StreamingOutputCallRequest{Payload: payload("long")}
	for name, find := range map[string]func(testpb.TestService_FullDuplexCallClient){
		"Header":           func(s testpb.TestService_FullDuplexCallClient) { s.Header() },
		"Send":             func(s testpb.TestService_FullDuplexCallClient) { s.Send(&testpb.StreamingOutputCallRequest{}) },
		"a message's size": func(s testpb.TestService_FullDuplexCallClient) { s.Send(message) },
	} {
		synctest.Test(t, func(t *testing.T) {
			a, _, auth := world(t)
			a.before = func(context.Context) error { return status.Error(codes.ResourceExhausted, "busy") }
			ctx, cancel := context.WithCancel(t.Context())
			finished, option := finishes()
			s, err := a.dial(t, auth).FullDuplexCall(ctx, option, grpc.MaxCallSendMsgSize(1))
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // the end arrives
			find(s)
			cancel()
			synctest.Wait()
			if len(*finished) != 1 || status.Code((*finished)[0]) != codes.ResourceExhausted {
				t.Errorf("%s: got OnFinish %v, want ResourceExhausted once", name, *finished)
			}
		})
	}
}
