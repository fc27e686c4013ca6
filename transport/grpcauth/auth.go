// Package grpcauth keeps a gRPC client authenticated.
//
// Begin with [Auth]. Its two interceptors send a token of a tokensource.Source with
// each call. When the server refuses the token, they get another one and make the call
// once more. Put a [tokensource.Cache] over your source, such as a
// [tokensource.RefreshToken] or [tokensource.ClientCredentials]:
//
//	auth := &grpcauth.Auth{Source: &tokensource.Cache{Source: source}}
//	conn, err := grpc.NewClient("api.example.com:443",
//		grpc.WithTransportCredentials(credentials.NewTLS(nil)),
//		grpc.WithChainUnaryInterceptor(auth.Unary),
//		grpc.WithChainStreamInterceptor(auth.Stream))
package grpcauth

import (
	"context"
	"fmt"
	"maps"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/tokentripper/tokentripper/internal/guard"
	"github.com/tokentripper/tokentripper/internal/replay"
	"github.com/tokentripper/tokentripper/tokensource"
)

// Auth authenticates the calls of gRPC clients. A call is refused if it ends with
// codes.Unauthenticated. Auth then asks its Source for another token and makes the call
// once more. You must set Source only.
//
// A call passes without a token of Auth, and is not made again, if it has credentials of
// its own: the option grpc.PerRPCCredentials, or authorization in its outgoing metadata.
//
// The caller gets the refusal unchanged if the Source has no other token. The same is
// true when a server keeps refusing the tokens that its refusals cause: then they cause
// a refresh at most every 2 s, and later every 2 minutes.
//
// If there is no token, the call fails at once, even with grpc.WaitForReady. The error
// wraps the Source's error. Its code is Unauthenticated if that wraps
// [tokensource.ErrReauthenticate], Canceled or DeadlineExceeded if the call's own
// context has ended, and otherwise Unavailable. Each call waits for a token within its
// own context. The timeout of a service config begins after that, anew for each call.
//
// The retries of gRPC itself, transparent or by a service config, belong to one call of
// Auth. A retry carries the newest token. Do not list UNAUTHENTICATED in a retry policy:
// gRPC would send the refused token again, and would hide from Auth that a stream was
// refused.
//
// Interceptors that are chained before those of Auth see one call, those that are chained
// after see both, without the option grpc.OnFinish. Auth calls that once, even if there is
// no token or an interceptor fails the call. After a call was made again, grpc.Header,
// grpc.Trailer and grpc.Peer tell of the second.
//
// Auth is safe for concurrent use, also by several ClientConns. You must not change its
// fields once it is in use.
type Auth struct {
	// Source supplies the tokens, usually from a [tokensource.Cache]. Tokens of type
	// DPoP do not work.
	Source tokensource.Source

	// AllowInsecure allows unencrypted connections to carry tokens. Without it, a call
	// over a connection without privacy and integrity fails with codes.Unauthenticated
	// and carries no token. This includes local connections, such as those of tests.
	AllowInsecure bool

	// MaxStream bounds the recording of the messages that one stream sends, in bytes:
	// those of the encoding, and 64 for each message. Zero means 256 KiB. A negative
	// value means that no message is recorded, and no stream made again after it has
	// sent one. A stream that receives nothing, such as a long upload, holds its
	// recording until it has sent more than that.
	MaxStream int64

	// MaxMemory bounds the recordings of all streams together, in bytes, counted as for
	// MaxStream. Zero means 64 MiB. A stream whose next message does not fit drops its
	// recording, and is not made again.
	MaxMemory int64

	asker  guard.Asker[map[string]string]
	budget replay.Budget
}

// Unary is a grpc.UnaryClientInterceptor. It makes a refused call once more.
func (a *Auth) Unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	c, err := a.begin(ctx, cc, method, opts)
	if c == nil && err == nil {
		return invoker(context.WithValue(ctx, callKey{a}, method), method, req, reply, cc, opts...)
	}
	for c != nil {
		err = invoker(c, method, req, reply, cc, c.options(opts)...)
		if !c.refused(err) {
			c.judge(err)
			break
		}
		c, err = c.again(err, true)
	}
	finish(opts, err)
	return err
}

// Stream is a grpc.StreamClientInterceptor. It makes a refused stream once more if no
// message has arrived and the messages sent so far are recorded. While a refusal is not
// known, SendMsg may return nil though the stream has ended; RecvMsg returns its error.
//
// A recording ends when it passes MaxStream or MaxMemory, when a message arrives or Header
// returns metadata, and when Context is called. Messages are recorded as copies, so a
// buffer may be used again after SendMsg. A message that is not a proto.Message of
// google.golang.org/protobuf, such as one of gogo/protobuf, is not recorded.
func (a *Auth) Stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	c, err := a.begin(ctx, cc, method, opts)
	if err != nil {
		finish(opts, err)
		return nil, err
	}
	if c == nil {
		return streamer(context.WithValue(ctx, callKey{a}, method), desc, cc, method, opts...)
	}
	s := &stream{call: c, opts: opts, turn: make(lock, 1), send: make(lock, 1), open: func(c *call, opts []grpc.CallOption) (grpc.ClientStream, error) {
		return streamer(c, desc, cc, method, opts...)
	}}
	if err := s.start(); err != nil {
		return nil, err
	}
	return s, nil
}

// GetRequestMetadata and RequireTransportSecurity make Auth a
// credentials.PerRPCCredentials, for calls that interceptors do not see, such as the
// health checks that gRPC makes by itself. Pass the Auth to grpc.WithPerRPCCredentials:
// then these calls carry a token, too, but are not made again.
//
// GetRequestMetadata returns nothing for the calls of Auth's interceptors, nor for those
// with authorization in their metadata. Without the interceptors, a call that has the
// option grpc.PerRPCCredentials, too, carries both tokens.
func (a *Auth) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	info, _ := credentials.RequestInfoFromContext(ctx)
	if ctx.Value(callKey{a}) == any(info.Method) || authorized(ctx) {
		return nil, nil
	}
	c, err := a.asker.Ask(ctx, a.Source, nil, metadataOf)
	if err != nil {
		return nil, failed(ctx, "not made", err)
	}
	return maps.Clone(c.Value), nil
}

// RequireTransportSecurity returns false if AllowInsecure is set.
func (a *Auth) RequireTransportSecurity() bool { return !a.AllowInsecure }

var _ credentials.PerRPCCredentials = (*Auth)(nil)

// Format writes the type of Source for every verb. It shows no secret and reads nothing
// that changes concurrently.
func (a *Auth) Format(s fmt.State, verb rune) { fmt.Fprintf(s, "%T", a.Source) }

// begin returns a call with a token, or nil if the call has credentials of its own.
func (a *Auth) begin(ctx context.Context, cc *grpc.ClientConn, method string, opts []grpc.CallOption) (*call, error) {
	if authorized(ctx) || hasCredentials(opts) {
		return nil, nil
	}
	token, err := a.asker.Ask(ctx, a.Source, nil, metadataOf)
	if err != nil {
		return nil, failed(ctx, "not made", err)
	}
	return newCall(ctx, a, cc, method, token), nil
}

// authorized reports whether the outgoing metadata has an authorization.
func authorized(ctx context.Context) bool {
	md, ok := metadata.FromOutgoingContext(ctx)
	return ok && len(md.Get("authorization")) > 0
}

func hasCredentials(opts []grpc.CallOption) bool {
	for _, o := range opts {
		if o, ok := o.(grpc.PerRPCCredsCallOption); ok && o.Creds != nil {
			return true
		}
	}
	return false
}

// metadataOf makes what carries a token. It is shared by calls, which only read it.
func metadataOf(token *tokensource.Token) (map[string]string, error) {
	value, err := token.Authorization()
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": value}, nil
}
