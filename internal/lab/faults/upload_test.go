package faults_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// takes reads so much of the body; then it ends the request in a way.
func takes(n int64, end func(*http.Request)) fault {
	return func(_ http.ResponseWriter, r *http.Request) bool {
		io.CopyN(io.Discard, r.Body, n)
		end(r)
		return true
	}
}

// first has a fault befall first attempts alone, and second the others.
func first(f func(w http.ResponseWriter, r *http.Request)) fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !old(r) {
			return false
		}
		f(w, r)
		return true
	}
}

func second(f fault) fault {
	return func(w http.ResponseWriter, r *http.Request) bool { return !old(r) && f(w, r) }
}

func TestAResetInTheMiddleOfAnUploadIsAnErrorAndNothingIsSentAgain(t *testing.T) {
	each(t, func(t *testing.T, a *api, c *client) {
		for _, kind := range []string{getter, stream} {
			a.set(takes(64*kib, reset))
			r := c.do(t.Context(), kind, 4*mib)
			if _, ours := errors.AsType[*transport.Error](r.err); r.err == nil || ours || r.sent != 1 {
				t.Errorf("%s: got %v, want the base's error after one attempt", kind, r)
			}
		}
	})
}

func TestAResetInTheMiddleOfTheSecondAttemptIsAnError(t *testing.T) {
	each(t, func(t *testing.T, a *api, c *client) {
		for _, kind := range []string{getter, stream} {
			a.set(second(takes(64*kib, reset)))
			if r := c.do(t.Context(), kind, memory); r.err == nil || r.sent != 2 {
				t.Errorf("%s: got %v, want an error after two attempts", kind, r)
			}
		}
	})
}

// refusesThen answers 401 in the middle of the upload, and ends the connection
// while the client asks for another token.
func refusesThen(c *client, after int64, refuse func(http.ResponseWriter), end func(*http.Request)) fault {
	asking, ended := make(chan struct{}), make(chan struct{})
	c.refresh = sync.OnceFunc(func() { close(asking); <-ended })
	return first(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		io.CopyN(io.Discard, r.Body, after)
		refuse(w)
		<-asking
		end(r)
	})
}

// noticed ends a connection, and waits until the client has noticed.
func noticed(c *client, end func(*http.Request)) func(*http.Request) {
	return func(r *http.Request) { end(r); c.disconnected() }
}

func TestAResetAfterTheRefusalDoesNotHurtTheSecondAttempt(t *testing.T) {
	each(t, func(t *testing.T, a *api, c *client) {
		for _, kind := range kinds {
			a.set(refusesThen(c, 64*kib, refuse, noticed(c, reset)))
			if r := c.do(t.Context(), kind, memory); r.status != 200 || r.err != nil || r.sent != 2 {
				t.Errorf("%s: got %v, want 200 after two attempts", kind, r)
			}
		}
	})
}

func TestAResetAfterTheRefusalOfWhatCannotBeSentAgainLeavesTheRefusal(t *testing.T) {
	each(t, func(t *testing.T, a *api, c *client) {
		a.set(refusesThen(c, 2*memory, refuse, noticed(c, reset)))
		if r := c.do(t.Context(), stream, 16*mib); r.status != 401 || r.sent != 1 {
			t.Errorf("got %v, want the 401 after one attempt", r)
		}
	})
}

func TestAServerThatRefusesAndHangsUpIsAskedOverANewConnection(t *testing.T) {
	each(t, func(t *testing.T, a *api, c *client) {
		for _, kind := range kinds {
			a.set(refusesThen(c, memory, refuse, noticed(c, hangUp)))
			if r := c.do(t.Context(), kind, memory); r.status != 200 || r.err != nil || r.sent != 2 {
				t.Errorf("%s: got %v, want 200 after two attempts", kind, r)
			}
		}
	})
}

// Until net/http has noticed, it may send the second attempt down the old
// connection. A GET it sends again by itself over HTTP/1.1, anything else is an
// error as any request would be.
func TestAServerThatRefusesAndHangsUpUnnoticedCausesSuccessOrAnError(t *testing.T) {
	each(t, func(t *testing.T, a *api, c *client) {
		for _, kind := range kinds {
			succeeded := 0
			for range 50 {
				a.set(first(func(w http.ResponseWriter, r *http.Request) {
					io.Copy(io.Discard, r.Body)
					refuse(w)
					hangUp(r)
				}))
				r := c.do(t.Context(), kind, kib)
				good := r.status == 200 && r.sent == 2
				if !good && (r.err == nil || kind == get && a.protocol == "HTTP/1.1") {
					t.Fatalf("%s: got %v, want 200 after two attempts, or an error", kind, r)
				}
				if good {
					succeeded++
				}
			}
			if succeeded == 0 {
				t.Errorf("%s: none of 50 succeeded", kind)
			}
		}
	})
}

// stops takes a little of an upload and no more, until the client or the test is
// gone. It tells when.
func stops(t *testing.T, refuses bool) (f fault, stopped chan struct{}) {
	stopped = make(chan struct{})
	over, end := context.WithCancel(context.Background())
	t.Cleanup(end)
	once := sync.OnceFunc(func() { close(stopped) })
	return func(w http.ResponseWriter, r *http.Request) bool {
		io.CopyN(io.Discard, r.Body, kib)
		if refuses {
			refuse(w)
		}
		once()
		select {
		case <-r.Context().Done():
		case <-over.Done():
		}
		return true
	}, stopped
}

// cancelledWhen ends a request's context when stopped says so.
func cancelledWhen(t *testing.T, stopped chan struct{}) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-stopped; cancel() }()
	return ctx
}

func TestAServerThatStopsReadingIsLeftWhenTheContextEnds(t *testing.T) {
	each(t, func(t *testing.T, a *api, c *client) {
		for _, kind := range []string{getter, stream} {
			f, stopped := stops(t, false)
			a.set(f)
			if r := c.do(cancelledWhen(t, stopped), kind, 16*mib); !errors.Is(r.err, context.Canceled) || r.sent != 1 {
				t.Errorf("%s: got %v, want context.Canceled after one attempt", kind, r)
			}
			f, stopped = stops(t, false)
			a.set(second(f))
			if r := c.do(cancelledWhen(t, stopped), kind, memory); !errors.Is(r.err, context.Canceled) || r.sent != 2 {
				t.Errorf("%s, second attempt: got %v, want context.Canceled after two", kind, r)
			}
		}
	})
}

// So much of it fits in no buffer: the first attempt is stuck in a write while
// the second is sent.
func TestAServerThatRefusesAndStopsReadingDoesNotHoldUpTheSecondAttempt(t *testing.T) {
	each(t, func(t *testing.T, a *api, c *client) {
		auth := c.http.Transport.(*transport.Auth)
		c.http.Transport = &transport.Auth{Source: auth.Source, Base: auth.Base, MaxBody: 16 * mib, MaxMemory: 16 * mib}
		for _, kind := range []string{getter, stream} {
			f, _ := stops(t, true)
			a.set(first(func(w http.ResponseWriter, r *http.Request) { f(w, r) }))
			if r := c.do(t.Context(), kind, 32*mib); r.status != 200 || r.err != nil || r.sent != 2 {
				t.Errorf("%s: got %v, want 200 after two attempts", kind, r)
			}
		}
	})
}

// readsOn refuses in the middle of the upload, tells what the rest of it is, and
// then ends the refusal.
func readsOn(rest chan<- arrival) fault {
	return first(func(w http.ResponseWriter, r *http.Request) {
		io.CopyN(io.Discard, r.Body, 64*kib)
		w.WriteHeader(http.StatusUnauthorized)
		http.NewResponseController(w).Flush()
		n, err := io.Copy(io.Discard, r.Body)
		rest <- arrival{64*kib + n, err}
		io.WriteString(w, "refused")
	})
}

// An arrival is how much of a body came, and how it ended.
type arrival struct {
	length int64
	err    error
}

// Over HTTP/1.1 a server may go on to read what it has refused.
func TestAnUploadWhoseRefusalStandsGoesOn(t *testing.T) {
	leavesNothing(t)
	a := serveAPI(t, "HTTP/1.1")
	c := newClient(t, a, alone)
	auth := c.http.Transport.(*transport.Auth)
	auth.Source = tokensource.Static(&tokensource.Token{AccessToken: "old"})
	auth.MaxBody, auth.MaxMemory = 32*mib, 32*mib
	rest := make(chan arrival, 1)
	a.set(readsOn(rest))
	if r := c.do(t.Context(), stream, 16*mib); r.status != 401 || r.err != nil || r.sent != 1 {
		t.Errorf("got %v, want the 401 after one attempt", r)
	}
	if got := <-rest; got.err != nil || got.length != 16*mib {
		t.Errorf("%d bytes came, and %v, want all %d", got.length, got.err, 16*mib)
	}
}
