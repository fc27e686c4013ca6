package faults_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// flood writes so many bytes, or until nobody takes them, and returns how many.
func flood(w io.Writer, size int64) (written int64) {
	chunk := make([]byte, 64*kib)
	for written < size {
		n, err := w.Write(chunk[:min(int64(len(chunk)), size-written)])
		written += int64(n)
		if err != nil {
			break
		}
	}
	return written
}

const endless = 1 << 62

func TestARefusalOfAHundredMegabytesIsNotRead(t *testing.T) {
	each(t, func(t *testing.T, a *api, c *client) {
		for _, size := range []int64{100e6, endless} {
			for _, read := range []int64{64 * kib, wholeBody} {
				for _, kind := range kinds {
					written := make(chan int64, 1)
					a.set(first(func(w http.ResponseWriter, r *http.Request) {
						io.CopyN(io.Discard, r.Body, read)
						w.WriteHeader(http.StatusUnauthorized)
						written <- flood(w, size)
					}))
					if r := c.do(t.Context(), kind, memory); r.status != 200 || r.err != nil || r.sent != 2 {
						t.Errorf("%s: got %v, want 200 after two attempts", kind, r)
					}
					// What was not read fills the buffers of the connection.
					if n := <-written; n > 32*mib {
						t.Errorf("%s: the server got rid of %d bytes, want not much more than 64 KiB", kind, n)
					}
				}
			}
		}
	})
}

func TestARefusalOfAHundredMegabytesThatStandsComesWhole(t *testing.T) {
	each(t, func(t *testing.T, a *api, c *client) {
		a.set(first(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusUnauthorized)
			flood(w, 100e6)
		}))
		if r := c.do(t.Context(), stream, 2*memory); r.status != 401 || r.length != 100e6 || r.err != nil || r.sent != 1 {
			t.Errorf("got %v, want the 401 and all of its 100000000 bytes after one attempt", r)
		}
	})
}

func TestARefusalThatBreaksOffIsReplacedAllTheSame(t *testing.T) {
	half := func(w http.ResponseWriter) {
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, "half of a")
		http.NewResponseController(w).Flush()
	}
	for _, end := range []func(*http.Request){hangUp, reset, func(*http.Request) { panic(http.ErrAbortHandler) }} {
		each(t, func(t *testing.T, a *api, c *client) {
			for _, kind := range kinds {
				a.set(refusesThen(c, 64*kib, half, func(r *http.Request) {
					end(r)
					if a.protocol == "HTTP/2" { // or the second attempt may go the same way
						c.disconnected()
					}
				}))
				if r := c.do(t.Context(), kind, memory); r.status != 200 || r.err != nil || r.sent != 2 {
					t.Errorf("%s: got %v, want 200 after two attempts", kind, r)
				}
			}
		})
	}
}

// challenges returns so many bytes of challenges in lines of a kilobyte.
func challenges(size int) []string {
	line := "Basic realm=" + strings.Repeat("a", kib-len("Basic realm="))
	lines := make([]string, size/kib)
	for i := range lines {
		lines[i] = line
	}
	return lines
}

func TestARefusalWithNineHundredKilobytesOfChallengesIsOne(t *testing.T) {
	each(t, func(t *testing.T, a *api, c *client) {
		for _, kind := range kinds {
			a.set(first(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				w.Header()["Www-Authenticate"] = append(challenges(900*kib), `Bearer error="invalid_token"`)
				w.WriteHeader(http.StatusUnauthorized)
			}))
			if r := c.do(t.Context(), kind, memory); r.status != 200 || r.err != nil || r.sent != 2 {
				t.Errorf("%s: got %v, want 200 after two attempts", kind, r)
			}
		}
	})
}

func TestHeadersBeyondTheLimitOfTheBaseAreAnError(t *testing.T) {
	each(t, func(t *testing.T, a *api, c *client) {
		c.base.MaxResponseHeaderBytes = 64 * kib
		large := func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header()["Www-Authenticate"] = challenges(900 * kib)
			w.WriteHeader(http.StatusUnauthorized)
		}
		for _, kind := range kinds {
			for attempt, f := range []fault{first(large), second(func(w http.ResponseWriter, r *http.Request) bool { large(w, r); return true })} {
				a.set(f)
				if r := c.do(t.Context(), kind, memory); r.err == nil || r.sent != attempt+1 {
					t.Errorf("%s: got %v, want an error after attempt %d", kind, r, attempt+1)
				}
			}
		}
	})
}

// early sends so many responses that announce another.
func early(w http.ResponseWriter, r *http.Request, n int) {
	w.Header().Set("Link", strings.Repeat("x", kib))
	for range n {
		w.WriteHeader(http.StatusEarlyHints)
		if r.Context().Err() != nil {
			break
		}
	}
}

func TestAFloodOfInformationalResponsesIsAnError(t *testing.T) {
	each(t, func(t *testing.T, a *api, c *client) {
		c.base.MaxResponseHeaderBytes = 64 * kib
		for _, kind := range kinds {
			a.set(first(func(w http.ResponseWriter, r *http.Request) { early(w, r, 1000) }))
			if r := c.do(t.Context(), kind, memory); r.err == nil || r.sent != 1 {
				t.Errorf("%s: got %v, want an error after one attempt", kind, r)
			}
		}
	})
}

func TestInformationalResponsesBeforeARefusalPass(t *testing.T) {
	each(t, func(t *testing.T, a *api, c *client) {
		for _, kind := range kinds {
			a.set(first(func(w http.ResponseWriter, r *http.Request) {
				early(w, r, 5)
				refuse(w)
			}))
			if r := c.do(t.Context(), kind, memory); r.status != 200 || r.err != nil || r.sent != 2 {
				t.Errorf("%s: got %v, want 200 after two attempts", kind, r)
			}
		}
	})
}
