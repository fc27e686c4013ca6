package grpcauth_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// ofOne is more than the recording of a message of a KiB, and less than that of two.
const ofOne = 1200

// silent begins an upload that sends a message of a KiB, and receives nothing yet.
func silent(ctx context.Context, t *testing.T, client testpb.TestServiceClient) testpb.TestService_StreamingInputCallClient {
	t.Helper()
	s, err := client.StreamingInputCall(ctx)
	if err == nil {
		err = s.Send(&testpb.StreamingInputCallRequest{Payload: &testpb.Payload{Body: make([]byte, 1<<10)}})
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStreamsBeyondMaxMemoryAreNotMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, auth := world(t)
		auth.MaxMemory = 10 * ofOne
		a.before = func(context.Context) error { time.Sleep(10 * time.Millisecond); return nil }
		client := a.dial(t, auth)
		for range 2 { // the second time, the memory is free again
			i.revoke()
			var uploads []testpb.TestService_StreamingInputCallClient
			for range 30 {
				uploads = append(uploads, silent(t.Context(), t, client))
			}
			ends := make(map[codes.Code]int)
			for _, s := range uploads {
				_, err := s.CloseAndRecv()
				ends[status.Code(err)]++
			}
			if got := fmt.Sprint(ends); got != "map[OK:10 Unauthenticated:20]" {
				t.Errorf("got %v, want OK of 10 and Unauthenticated of 20", got)
			}
		}
	})
}

func TestAStreamThatHasEndedHoldsNoMemory(t *testing.T) {
	for name, end := range map[string]func(*api, context.CancelFunc, testpb.TestService_StreamingInputCallClient) error{
		"accepted": func(_ *api, _ context.CancelFunc, s testpb.TestService_StreamingInputCallClient) error {
			_, err := s.CloseAndRecv()
			return err
		},
		"refused twice": func(a *api, _ context.CancelFunc, s testpb.TestService_StreamingInputCallClient) error {
			check := a.check
			defer func() { a.check = check }()
			a.check = func(string) error { return errors.New("no") }
			_, err := s.CloseAndRecv()
			time.Sleep(time.Hour) // until the server's refusals are forgotten
			return err
		},
		"cancelled": func(_ *api, cancel context.CancelFunc, s testpb.TestService_StreamingInputCallClient) error {
			cancel()
			synctest.Wait()
			return context.Canceled
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			a, i, auth := world(t)
			auth.MaxMemory = ofOne
			a.before = func(context.Context) error { time.Sleep(10 * time.Millisecond); return nil }
			client := a.dial(t, auth)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if err := end(a, cancel, silent(ctx, t, client)); (err == nil) != (name == "accepted") {
				t.Errorf("%s: got %v", name, err)
			}
			i.revoke()
			if _, err := silent(t.Context(), t, client).CloseAndRecv(); err != nil {
				t.Errorf("%s: the next refused upload: got %v, want that it is sent again", name, err)
			}
		})
	}
}
