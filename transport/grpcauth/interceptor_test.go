package grpcauth_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// insist is an interceptor that makes a stream once more if the server is unavailable, as
// those for retries do.
func insist(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := streamer(ctx, desc, cc, method, opts...)
	return &insistent{ClientStream: s, again: func() (grpc.ClientStream, error) { return streamer(ctx, desc, cc, method, opts...) }}, err
}

type insistent struct {
	grpc.ClientStream
	again func() (grpc.ClientStream, error)
	sent  any
}

func (s *insistent) SendMsg(m any) error {
	s.sent = m
	return s.ClientStream.SendMsg(m)
}

func (s *insistent) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if status.Code(err) != codes.Unavailable {
		return err
	}
	if s.ClientStream, err = s.again(); err != nil {
		return err
	}
	s.ClientStream.SendMsg(s.sent)
	s.CloseSend()
	return s.ClientStream.RecvMsg(m)
}

func TestAStreamThatAnInterceptorMakesOnceMoreMayBeRefused(t *testing.T) {
	for _, fatal := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			a, i, auth := world(t)
			a.before = func(context.Context) error {
				if a.calls.Load() == 1 || fatal {
					return status.Error(codes.Unavailable, "restarting")
				}
				return nil
			}
			client := testpb.NewTestServiceClient(a.conn(t, append(plain(auth), grpc.WithChainStreamInterceptor(insist))...))
			i.revoke()
			finished, option := finishes()
			err := receive(t.Context(), client, option)
			want := codes.OK
			if fatal {
				want = codes.Unavailable
			}
			if status.Code(err) != want || len(*finished) != 1 || status.Code((*finished)[0]) != want {
				t.Errorf("got %v and OnFinish %v, want %v once", err, *finished, want)
			}
		})
	}
}

// A strict stream sends no empty message.
type strict struct{ grpc.ClientStream }

func (s strict) SendMsg(m any) error {
	if m.(*testpb.StreamingInputCallRequest).Payload == nil {
		return status.Error(codes.InvalidArgument, "it is empty")
	}
	return s.ClientStream.SendMsg(m)
}

func TestAMessageThatAnInterceptorRejectsEndsNoReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, auth := world(t)
		a.before = func(context.Context) error { time.Sleep(10 * time.Millisecond); return nil }
		check := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			s, err := streamer(ctx, desc, cc, method, opts...)
			return strict{s}, err
		}
		client := testpb.NewTestServiceClient(a.conn(t, append(plain(auth), grpc.WithChainStreamInterceptor(check))...))
		i.revoke()
		s, err := client.StreamingInputCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var sent []codes.Code
		for _, p := range []*testpb.Payload{payload("1"), nil, payload("3")} {
			sent = append(sent, status.Code(s.Send(&testpb.StreamingInputCallRequest{Payload: p})))
		}
		m, err := s.CloseAndRecv()
		if got := fmt.Sprint(sent, m.GetAggregatedPayloadSize(), err); got != "[OK InvalidArgument OK] 2 <nil>" {
			t.Errorf("got %s, want that two messages arrive", got)
		}
	})
}
