package transport_test

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/internal/guard"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// servers are APIs in a bubble. Hosts that begin with bad refuse every token, and
// so does the path /forbidden; anything else accepts the tokens that are good.
type servers struct {
	*issuer
	status int // of a refusal; zero: 401
}

func (s *servers) RoundTrip(req *http.Request) (*http.Response, error) {
	time.Sleep(5 * time.Millisecond)
	token := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
	if strings.HasPrefix(req.URL.Host, "bad") || req.URL.Path == "/forbidden" || !s.good(token) {
		return bodyAnswer(max(s.status, 401), http.NoBody), nil
	}
	return bodyAnswer(200, http.NoBody), nil
}

// asks returns the status with which a URL is answered.
func asks(t *testing.T, auth *transport.Auth, url string) int {
	t.Helper()
	resp, err := auth.RoundTrip(postBody(t, url, nil))
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

// For ten seconds, each of a number of Auths over one Cache asks origins that
// refuse everything, in turn or one after the other, and a good one between them.
func TestOriginsThatRefuseEverythingCauseFewRefreshesTogether(t *testing.T) {
	for _, auths := range []int{1, 4} {
		for _, bad := range []int{1, 2, 10} {
			for order, next := range map[string]func(i int) int{
				"in turn":       func(i int) int { return i % bad },
				"one by one":    func(i int) int { return i * bad / 1000 },
				"to and fro":    func(i int) int { return i * i % bad },
				"all at a time": func(i int) int { return i / 10 % bad },
			} {
				synctest.Test(t, func(t *testing.T) {
					s := &servers{issuer: new(issuer)}
					cache := &tokensource.Cache{Source: s.issuer}
					all := make([]*transport.Auth, auths)
					for i := range all {
						all[i] = &transport.Auth{Source: cache, Base: s}
					}
					began := time.Now()
					for i := 0; time.Since(began) < 10*time.Second; i++ {
						auth := all[i%auths]
						asks(t, auth, fmt.Sprintf("https://bad-%d.example/", next(i%1000)))
						if i%5 == 0 {
							if got := asks(t, auth, "https://good.example/"); got != 200 {
								t.Errorf("the good API: got status %d", got)
							}
						}
					}
					if got, most := s.issued.Load(), int32(min(6*bad, 12)*min(auths, 2)); got > min(most, 12) {
						t.Errorf("%d Auths, %d origins, %s: %d token requests, want at most %d", auths, bad, order, got, min(most, 12))
					}
				})
			}
		}
	}
}

func TestTenOriginsThatRefuseEverythingCauseNoMoreRefreshesInTenMinutesThanOne(t *testing.T) {
	for _, bad := range []int{1, 10} {
		synctest.Test(t, func(t *testing.T) {
			s := &servers{issuer: new(issuer)}
			auth := &transport.Auth{Source: &tokensource.Cache{Source: s.issuer}, Base: s}
			for i := range 6000 {
				asks(t, auth, fmt.Sprintf("https://bad-%d.example/", i%bad))
				asks(t, auth, "https://good.example/")
				time.Sleep(90 * time.Millisecond)
			}
			if got := s.issued.Load(); got > 12 {
				t.Errorf("%d origins: %d token requests, want at most 12", bad, got)
			}
		})
	}
}

func TestAForbiddenPathCausesFewRefreshesBesideGoodAnswers(t *testing.T) {
	for status, refused := range map[int]func(*http.Response) bool{401: transport.Unauthorized, 403: transport.UnauthorizedOrForbidden} {
		synctest.Test(t, func(t *testing.T) {
			s := &servers{issuer: new(issuer), status: status}
			auth := &transport.Auth{Source: &tokensource.Cache{Source: s.issuer}, Base: s, Refused: refused}
			began, revocations := time.Now(), int32(0)
			for i := 0; time.Since(began) < 10*time.Second; i++ {
				if got := asks(t, auth, "https://api.example/forbidden"); got != status {
					t.Fatalf("the forbidden path: got status %d, want %d", got, status)
				}
				if i == 333 || i == 555 {
					s.revoke()
					revocations++
					before := s.issued.Load()
					if got := asks(t, auth, "https://api.example/"); got != 200 || s.issued.Load() != before+1 {
						t.Errorf("after a revocation: got status %d and %d token requests, want 200 and one", got, s.issued.Load()-before)
					}
				}
				if got := asks(t, auth, "https://api.example/"); got != 200 {
					t.Fatalf("the good path: got status %d", got)
				}
			}
			if got := s.issued.Load() - revocations; got > 6 {
				t.Errorf("status %d: %d token requests beside those for the revocations, want at most 6", status, got)
			}
		})
	}
}

func TestAForbiddenMethodLeavesTheOthersOfItsPathTrusted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		auth := &transport.Auth{Source: &tokensource.Cache{Source: s.issuer}, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.Method == http.MethodDelete {
				return bodyAnswer(401, http.NoBody), nil
			}
			return s.RoundTrip(req)
		})}
		req := postBody(t, "https://api.example/", nil)
		req.Method = http.MethodDelete
		getsStatus(t, auth, req, 401) // and so is a new token
		asks(t, auth, "https://api.example/")
		s.revoke()
		if got := asks(t, auth, "https://api.example/"); got != 200 {
			t.Errorf("got status %d after a revocation, want a refresh at once and 200", got)
		}
	})
}

// As in GraphQL, where what is forbidden has the path of what is not.
func TestOperationsOfOnePathOfWhichOneIsForbiddenCauseFewRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		auth := &transport.Auth{Source: &tokensource.Cache{Source: s.issuer}, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.URL.RawQuery == "forbidden" {
				return bodyAnswer(401, http.NoBody), nil
			}
			return s.RoundTrip(req)
		})}
		began := time.Now()
		for i := 0; time.Since(began) < 10*time.Second; i++ {
			path := []string{"a", "b"}[i%2]
			asks(t, auth, "https://api.example/"+path+"?forbidden")
			if got := asks(t, auth, "https://api.example/"+path); got != 200 {
				t.Fatalf("got status %d for what is allowed", got)
			}
		}
		if got := s.issued.Load(); got > 6 {
			t.Errorf("%d token requests, want at most 6", got)
		}
	})
}

// What a forbidden path costs the requests beside it.
func TestOneForbiddenRequestInTenLeavesTheOthersTheirThroughput(t *testing.T) {
	throughput := func(forbidden bool) (good, issued int32) {
		synctest.Test(t, func(t *testing.T) {
			s := &servers{issuer: new(issuer)}
			cache := &tokensource.Cache{Source: tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
				time.Sleep(250 * time.Millisecond) // and 50 of the issuer
				return s.Token(ctx, old)
			})}
			auth := &transport.Auth{Source: cache, Base: s}
			began := time.Now()
			var count atomic.Int32
			var callers sync.WaitGroup
			for range 10 {
				callers.Go(func() {
					for i := 0; time.Since(began) < 10*time.Second; i++ {
						if forbidden && i%10 == 9 {
							asks(t, auth, "https://api.example/forbidden")
						} else if asks(t, auth, "https://api.example/") == 200 {
							count.Add(1)
						}
					}
				})
			}
			callers.Wait()
			good, issued = count.Load(), s.issued.Load()
		})
		return good, issued
	}
	with, requests := throughput(true)
	without, _ := throughput(false)
	without = without * 9 / 10 // the tenth request is not sent there
	t.Logf("%d good requests in 10 s, %d without the forbidden ones; %d token requests", with, without, requests)
	if with < without*9/10 {
		t.Errorf("%d good requests in 10 s beside forbidden ones, want at least nine tenths of %d", with, without)
	}
}

func TestATokenThatIsThereIsUsedWhateverTheGuardSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		cache := &tokensource.Cache{Source: s.issuer}
		login := false
		auth := &transport.Auth{Source: cache, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			if login { // while the request is on its way
				cache.Set(req.Context(), &tokensource.Token{AccessToken: "token-9"})
			}
			return s.RoundTrip(req)
		})}
		s.dead.Store(8)
		if got := asks(t, auth, "https://api.example/"); got != 401 {
			t.Errorf("got status %d, want the refusal of token-2", got)
		}
		login = true
		if got := asks(t, auth, "https://api.example/"); got != 200 || s.issued.Load() != 2 {
			t.Errorf("got status %d and %d token requests, want 200 and 2: the Cache has another token", got, s.issued.Load())
		}
	})
}

// Tokens of many users are older than a row that begins.
func TestARefusalOfOneUserLeavesTheTokensOfOthersToBeRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		type userKey struct{}
		auth := &transport.Auth{Base: s, Source: &tokensource.Keyed[string]{
			Key: func(ctx context.Context) (string, error) { return ctx.Value(userKey{}).(string), nil },
			New: func(string) *tokensource.Cache { return &tokensource.Cache{Source: s.issuer} },
		}}
		as := func(user, path string) int {
			req := postBody(t, "https://api.example"+path, nil)
			resp, err := auth.RoundTrip(req.WithContext(context.WithValue(t.Context(), userKey{}, user)))
			if err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode
		}
		as("good", "/")
		time.Sleep(time.Minute)
		for range 100 {
			as("bad", "/forbidden")
		}
		if got := as("good", "/"); got != 200 {
			t.Errorf("the other user got status %d", got)
		}
		s.revoke()
		if got := as("good", "/other"); got != 200 {
			t.Errorf("the other user got status %d after a revocation", got)
		}
		if got := s.issued.Load(); got > 4 {
			t.Errorf("%d token requests, want at most 4", got)
		}
	})
}

func TestTheGuardIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		auth := &transport.Auth{Source: &tokensource.Cache{Source: s.issuer}, Base: s}
		before := heapInUse()
		for i := range 20_000 {
			asks(t, auth, fmt.Sprintf("https://bad-%d.example/%d", i, i))
			asks(t, auth, fmt.Sprintf("https://good.example/%d", i))
		}
		if held := heapInUse() - before; held > 2*mib {
			t.Errorf("%d KiB are held after 20,000 origins and paths, want at most 2 MiB", held>>10)
		}
		if got := s.issued.Load(); got > 300 {
			t.Errorf("%d token requests in %d s", got, 20_000/100)
		}
	})
}

func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestAnAcceptedRequestLongAfterARefusalCostsNoMoreThanBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		status := 200
		auth := &transport.Auth{Source: &tokensource.Cache{Source: new(issuer)}, Base: roundTripper(func(*http.Request) (*http.Response, error) {
			return bodyAnswer(status, http.NoBody), nil
		})}
		allocs := func() float64 {
			asks(t, auth, "https://api.example/")
			req := postBody(t, "https://api.example/", nil)
			return testing.AllocsPerRun(100, func() { auth.RoundTrip(req) })
		}
		before := allocs()
		status = 401
		asks(t, auth, "https://api.example/")
		status = 200
		time.Sleep(5 * time.Minute)
		if got := allocs(); got != before {
			t.Errorf("got %v allocations, want %v", got, before)
		}
	})
}

func TestAFullMapLosesAnEntryToANewKeyOnly(t *testing.T) {
	m := make(map[int]string)
	for i := range 200 {
		guard.Put(m, 100, i, "new")
		if want := min(i+1, 100); len(m) != want || m[i] != "new" {
			t.Errorf("after %d keys: got %d entries, the last one %q, want %d and the new one", i+1, len(m), m[i], want)
		}
	}
	for key := range m {
		if guard.Put(m, 100, key, "again"); len(m) != 100 || m[key] != "again" {
			t.Errorf("got %d entries and %q, want 100 and the value again", len(m), m[key])
		}
	}
}

// An API refuses everything for a while, so that its row is long, and then is well.
func TestARefusalThatIsCuredMakesItsOriginTrustedAgain(t *testing.T) {
	for how, path := range map[string]string{"the same again": "/", "another path, after 2 s": "/other", "a login": "/"} {
		synctest.Test(t, func(t *testing.T) {
			s := &servers{issuer: new(issuer)}
			cache := &tokensource.Cache{Source: s.issuer}
			auth := &transport.Auth{Source: cache, Base: s}
			s.dead.Store(1 << 20)
			for began := time.Now(); time.Since(began) < 25*time.Second; time.Sleep(time.Second) {
				asks(t, auth, "https://api.example/")
			}
			s.revoke()
			time.Sleep(10 * time.Second)
			if got := asks(t, auth, "https://api.example/"); got != 200 {
				t.Fatalf("got status %d, want a refresh after half a minute and 200", got)
			}
			switch how {
			case "another path, after 2 s":
				time.Sleep(2 * time.Second)
			case "a login":
				next, _ := s.Token(t.Context(), nil)
				cache.Set(t.Context(), next)
				asks(t, auth, "https://api.example/")
			}
			s.revoke()
			if got := asks(t, auth, "https://api.example"+path); got != 200 {
				t.Errorf("%s: got status %d after a revocation, want a refresh and 200", how, got)
			}
		})
	}
}

func TestUsersOfAnAPIThatRefusesThemAllCauseFewRefreshesEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		type userKey struct{}
		auth := &transport.Auth{Base: s, Source: &tokensource.Keyed[int]{
			Key: func(ctx context.Context) (int, error) { return ctx.Value(userKey{}).(int), nil },
			New: func(int) *tokensource.Cache { return &tokensource.Cache{Source: s.issuer} },
		}}
		for i := range 1000 {
			req := postBody(t, "https://bad.example/", nil)
			if _, err := auth.RoundTrip(req.WithContext(context.WithValue(t.Context(), userKey{}, i%3))); err != nil {
				t.Fatal(err)
			}
		}
		if got := s.issued.Load(); got > 9 {
			t.Errorf("%d token requests of three users, want at most 9", got)
		}
	})
}
