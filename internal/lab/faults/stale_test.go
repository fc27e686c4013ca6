package faults_test

import (
	"io"
	"net/http"
	"sync"
	"testing"
)

// once has the fault befall one request of those that it is for.
func once(f fault) fault {
	var mu sync.Mutex // guards spent, and who comes meanwhile waits
	spent := false
	return func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if spent {
			return false
		}
		spent = f(w, r)
		return spent
	}
}

// warm opens a connection, which stays open.
func (c *client) warm() {
	c.t.Helper()
	c.api.set(nil)
	if r := c.do(c.t.Context(), get, 0); r.status != 200 {
		c.t.Fatalf("got %v, want 200", r)
	}
}

// A server may close an idle connection at the moment a request is sent. Over
// HTTP/1.1, net/http sends it again by itself if that is safe: then a request
// through Auth succeeds as well, and no others do.
func TestAStaleConnectionCostsWhatItCostsWithoutAuth(t *testing.T) {
	each(t, func(t *testing.T, a *api, c *client) {
		plain := newClient(t, a, bare)
		for _, kind := range []string{get, getter, idempotent, stream} {
			for name, end := range map[string]func(*http.Request){"closed": hangUp, "reset": reset} {
				stale := takes(wholeBody, end)
				plain.warm()
				a.set(once(stale))
				want := plain.do(t.Context(), kind, kib)
				if again := a.protocol == "HTTP/1.1" && (kind == get || kind == idempotent); (want.err == nil) != again {
					t.Errorf("%s, %s, net/http alone: got %v, want a success: %v", kind, name, want, again)
				}
				for attempt, f := range []fault{stale, second(stale)} {
					c.warm()
					a.set(once(f))
					if r := c.do(t.Context(), kind, kib); (r.err == nil) != (want.err == nil) || r.err == nil && r.sent != 2 {
						t.Errorf("%s, %s in attempt %d: got %v, without Auth %v", kind, name, attempt+1, r, want)
					}
				}
			}
		}
	})
}

const wholeBody = 1 << 62

func TestAConnectionThatWasClosedInGoodTimeCostsNothing(t *testing.T) {
	each(t, func(t *testing.T, a *api, c *client) {
		for _, kind := range kinds {
			c.warm()
			a.hangUpAll()
			c.disconnected()
			if r := c.do(t.Context(), kind, memory); r.status != 200 || r.err != nil || r.sent != 2 {
				t.Errorf("%s: got %v, want 200 after two attempts", kind, r)
			}
		}
	})
}

// The 200 broke off: that is the caller's to see.
func TestAnAnswerThatBreaksOffIsAnErrorOfItsBody(t *testing.T) {
	for _, end := range []func(*http.Request){hangUp, reset, func(*http.Request) { panic(http.ErrAbortHandler) }} {
		each(t, func(t *testing.T, a *api, c *client) {
			for _, kind := range kinds {
				a.set(second(func(w http.ResponseWriter, r *http.Request) bool {
					io.Copy(io.Discard, r.Body)
					io.WriteString(w, "half of what ")
					http.NewResponseController(w).Flush()
					end(r)
					return true
				}))
				if r := c.do(t.Context(), kind, kib); r.err == nil || r.sent != 2 {
					t.Errorf("%s: got %v, want an error after two attempts", kind, r)
				}
			}
		})
	}
}
