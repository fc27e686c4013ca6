package grpcauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokentripper/tokentripper/internal/guard"
	"github.com/tokentripper/tokentripper/internal/origin"
)

// A call is a call of gRPC with a token. To need one allocation only, it is everything
// that gRPC takes for it: the context, the option and the credentials.
type call struct {
	context.Context
	grpc.PerRPCCredsCallOption

	auth    *Auth
	cc      *grpc.ClientConn
	method  string
	token   *guard.Credentials[map[string]string]
	carried atomic.Pointer[guard.Credentials[map[string]string]] // what the last attempt carried; nil: none was made
	second  bool                                                 // it follows a refusal
	caused  bool                                                 // which caused the token
	judged  atomic.Bool
	room    [4]grpc.CallOption
}

func newCall(ctx context.Context, a *Auth, cc *grpc.ClientConn, method string, token *guard.Credentials[map[string]string]) *call {
	c := &call{Context: ctx, auth: a, cc: cc, method: method, token: token}
	c.Creds = c
	return c
}

// A callKey is the key of the method that the interceptors of an Auth call. Its calls of
// other methods, with the same context, carry a token.
type callKey struct{ auth *Auth }

// Value lets the Auth find the call in the contexts that gRPC derives from it.
func (c *call) Value(key any) any {
	if key == (callKey{c.auth}) {
		return c.method
	}
	return c.Context.Value(key)
}

// Format writes the method for every verb, because interceptors see the call as a context
// and as an option, and may log them.
func (c *call) Format(s fmt.State, _ rune) { io.WriteString(s, c.method) }

// GetRequestMetadata returns what an attempt carries: the call's token, or the newest
// one if gRPC has sent the token and tries again by itself.
func (c *call) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token := c.token
	if c.carried.Load() != nil {
		var err error
		if token, err = c.auth.asker.Ask(ctx, c.auth.Source, nil, metadataOf); err != nil {
			return nil, failed(ctx, "not made", err)
		}
	}
	c.carried.Store(token)
	return token.Value, nil
}

// RequireTransportSecurity returns false if AllowInsecure is set.
func (c *call) RequireTransportSecurity() bool { return c.auth.RequireTransportSecurity() }

// options returns the call and the caller's options except OnFinish, which waits for the
// end of the last call.
func (c *call) options(opts []grpc.CallOption) []grpc.CallOption {
	all := c.room[:0]
	for _, o := range opts {
		if _, ok := o.(grpc.OnFinishCallOption); !ok {
			all = append(all, o)
		}
	}
	return append(all, c)
}

// finish calls OnFinish.
func finish(opts []grpc.CallOption, err error) {
	for _, o := range opts {
		if o, ok := o.(grpc.OnFinishCallOption); ok {
			o.OnFinish(err)
		}
	}
}

// refused reports whether the call may be made again, because the server refused the
// token. Without a token that was sent, the error is one of gRPC.
func (c *call) refused(err error) bool { return !c.second && c.refuses(err) }

func (c *call) refuses(err error) bool {
	if err == nil || c.carried.Load() == nil || status.Code(err) != codes.Unauthenticated {
		return false
	}
	_, own := errors.AsType[*tokenError](err)
	return !own
}

// again returns the second call after a refusal, or else nil and the caller's error. If
// the call cannot be made again, a new token is for later ones.
func (c *call) again(refusal error, replayable bool) (*call, error) {
	carried := c.carried.Load()
	token, caused, err := c.auth.asker.Another(c.Context, c.auth.Source, c.kind(), carried, metadataOf)
	if err != nil && replayable {
		return nil, failed(c.Context, "refused, and not made again", err)
	}
	if token == nil || err != nil {
		return nil, refusal
	}
	next := newCall(c.Context, c.auth, c.cc, c.method, token)
	next.second, next.caused = true, caused
	if !replayable {
		next.judge(refusal)
		return nil, refusal
	}
	return next, nil
}

// judge tells the guard once what the end of the call, or its first message, says about
// its token.
func (c *call) judge(err error) {
	g := &c.auth.asker.Guard
	if !c.second && (err != nil || !g.Watches()) || c.judged.Swap(true) {
		return
	}
	token := c.token.Token
	if carried := c.carried.Load(); carried != nil {
		token = carried.Token
	}
	switch {
	case err == nil && c.second:
		g.Cured(c.kind(), token)
	case err == nil:
		g.Accepted(c.kind(), token)
	case c.caused && c.refuses(err):
		g.Uncured(c.kind(), token)
	case c.caused && answered(err):
		g.Untried(token)
	}
	if c.caused {
		g.Tried()
	}
}

// answered reports whether an error comes from the server, not from the network or the
// call's context.
func answered(err error) bool {
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable:
		return false
	}
	return true
}

// kind returns the kind of the call: its method, at its target.
func (c *call) kind() guard.Kind {
	return guard.KindOf(origin.Origin{Scheme: "grpc", Host: c.cc.Target()}, c.method)
}
