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

// A new token that its first origin accepts may be revoked before a second sees it.
func TestANewTokenThatIsRevokedAtOnceIsReplacedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		auth := &transport.Auth{Source: &tokensource.Cache{Source: s.issuer}, Base: s}
		for _, host := range []string{"a", "a", "b", "c"} {
			if got := asks(t, auth, "https://"+host+".example/"); got != 200 {
				t.Errorf("%s: got status %d, want a refresh and 200", host, got)
			}
			s.revoke()
		}
	})
}

// The tokens of logins say nothing of an origin: beside a row elsewhere each has to be 2 s old, and no more.
func TestLoginsThatAreRefusedBesideARowBeginNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		cache := &tokensource.Cache{Source: s.issuer}
		auth := &transport.Auth{Source: cache, Base: s}
		asks(t, auth, "https://bad.example/")
		for i := range 5 {
			cache.Set(t.Context(), &tokensource.Token{AccessToken: fmt.Sprint("login-", i)})
			if got := asks(t, auth, "https://api.example/"); got != 401 {
				t.Errorf("got status %d for a login that is no good, want 401 and no refresh", got)
			}
		}
		next, _ := s.Token(t.Context(), nil)
		cache.Set(t.Context(), next)
		asks(t, auth, "https://api.example/")
		s.revoke()
		time.Sleep(3 * time.Second)
		if got := asks(t, auth, "https://api.example/other"); got != 200 {
			t.Errorf("got status %d after a revocation, want a refresh and 200", got)
		}
	})
}

func TestASecondAttemptMayTakeLongerThanATrial(t *testing.T) {
	for _, status := range []int{401, 503} {
		synctest.Test(t, func(t *testing.T) {
			auth := &transport.Auth{Source: &tokensource.Cache{Source: new(issuer)}, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				if req.Header.Get("Authorization") == "Bearer token-1" {
					return bodyAnswer(401, http.NoBody), nil
				}
				time.Sleep(time.Minute)
				return bodyAnswer(status, http.NoBody), nil
			})}
			for range 3 {
				if got := asks(t, auth, "https://api.example/"); got != status {
					t.Errorf("got status %d, want %d", got, status)
				}
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

// However the token came, and whatever is still on its way with the one before.
func TestATokenThatWasInUseForMinutesIsReplacedAtOnce(t *testing.T) {
	for how, second := range map[string]func(*testing.T, *issuer, *tokensource.Cache, *transport.Auth){
		"by a refusal": func(t *testing.T, tokens *issuer, _ *tokensource.Cache, auth *transport.Auth) {
			tokens.revoke()
			ok(t, auth)
		},
		"by a login": func(t *testing.T, tokens *issuer, cache *tokensource.Cache, _ *transport.Auth) {
			tokens.revoke()
			next, _ := tokens.Token(t.Context(), nil)
			cache.Set(t.Context(), next)
		},
	} {
		for _, peeks := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				tokens := new(issuer)
				cache := &tokensource.Cache{Source: tokens}
				source := map[bool]tokensource.Source{true: cache, false: tokensource.Func(cache.Token)}[peeks]
				base := &gated{&api{likes: tokens.good}, make(chan struct{})}
				auth := &transport.Auth{Source: source, Base: base}
				ok(t, auth)
				status := make(chan int, 1)
				go func() { status <- asks(t, auth, "https://api.example.com/slow") }()
				synctest.Wait()
				second(t, tokens, cache, auth)
				for range 10 {
					time.Sleep(time.Minute)
					if err := ok(t, auth); err != nil {
						t.Errorf("%s, Peek %t: %v", how, peeks, err)
					}
				}
				tokens.revoke()
				base.gate <- struct{}{} // the refusal of token-1
				synctest.Wait()
				base.gate <- struct{}{} // and of token-2, which was there already
				if got := <-status; got != 401 {
					t.Errorf("%s, Peek %t: the held request got status %d, want 401 after two attempts", how, peeks, got)
				}
				if err := ok(t, auth); err != nil {
					t.Errorf("%s, Peek %t: the next request got %v, want a refresh and 200", how, peeks, err)
				}
			})
		}
	}
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

// A gated base holds requests for /slow, each attempt until something comes from the gate.
type gated struct {
	*api
	gate chan struct{}
}

func (g *gated) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Path != "/slow" {
		return g.api.RoundTrip(req)
	}
	<-g.gate
	return bodyAnswer(map[bool]int{true: 200, false: 401}[g.likes(strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "))], http.NoBody), nil
}

func slowly(t *testing.T, auth *transport.Auth) {
	go func() { getsStatus(t, auth, postBody(t, "https://api.example.com/slow", nil), 200) }()
	synctest.Wait()
}

func TestALateSuccessOfTheTokenBeforeDoesNotEndARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens, second := new(issuer), false
		base := &gated{&api{likes: func(token string) bool { return second && token == "token-2" }}, make(chan struct{})}
		auth := &transport.Auth{Source: &tokensource.Cache{Source: tokens}, Base: base}
		get(t, auth) // refused, and so is token-2
		slowly(t, auth)
		time.Sleep(2 * time.Second)
		get(t, auth) // refused, and so is token-3
		second = true
		base.gate <- struct{}{}
		synctest.Wait()
		get(t, auth)
		if got := tokens.issued.Load(); got != 3 {
			t.Errorf("%d token requests, want 3: token-3 is too young", got)
		}
	})
}

func TestALateRefusalOfTheTokenBeforeBeginsNoRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(issuer)
		base := &gated{&api{likes: tokens.good}, make(chan struct{})}
		auth := &transport.Auth{Source: &tokensource.Cache{Source: tokens}, Base: base}
		ok(t, auth)
		slowly(t, auth)
		tokens.revoke()
		ok(t, auth) // with token-2
		base.gate <- struct{}{}
		synctest.Wait() // the late refusal; its replay is held, too
		tokens.revoke()
		if err := ok(t, auth); err != nil {
			t.Errorf("got %v, want token-2 to be replaced at once", err)
		}
		tokens.dead.Store(1)
		base.gate <- struct{}{}
		synctest.Wait()
	})
}

func TestALateRefusalOfATokenThatWasAcceptedThereMeanwhileBeginsNoRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, late := &servers{issuer: new(issuer)}, make(chan struct{})
		auth := &transport.Auth{Source: &tokensource.Cache{Source: s.issuer}, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("Late") != "" && req.Header.Get("Authorization") == "Bearer token-2" {
				<-late
			}
			return s.RoundTrip(req)
		})}
		ask := func(path string) {
			t.Helper()
			if got := asks(t, auth, "https://api.example"+path); got != 200 {
				t.Errorf("%s: got status %d, want 200", path, got)
			}
		}
		ask("/")
		s.revoke()
		go func() {
			req := postBody(t, "https://api.example/", nil)
			req.Header.Set("Late", "second attempt")
			getsStatus(t, auth, req, 401)
		}()
		time.Sleep(time.Second)
		ask("/") // with token-2
		time.Sleep(2 * time.Second)
		s.revoke()
		ask("/other")
		close(late)
		time.Sleep(time.Second)
		ask("/")
		s.revoke()
		ask("/")
	})
}

// A Source with no Peek, which hands the refused token out again.
func TestASourceThatRepeatsItsFirstTokenIsGuardedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refreshes atomic.Int32
		source := tokensource.Func(func(_ context.Context, old *tokensource.Token) (*tokensource.Token, error) {
			if old == nil {
				return &tokensource.Token{AccessToken: "first"}, nil
			}
			return &tokensource.Token{AccessToken: fmt.Sprint("next-", refreshes.Add(1))}, nil
		})
		auth := &transport.Auth{Source: source, Base: &api{likes: refuseAll}}
		for range 6000 {
			get(t, auth)
			time.Sleep(100 * time.Millisecond)
		}
		if got := refreshes.Load(); got > 10 {
			t.Errorf("%d refreshes in 10 minutes, want at most 10", got)
		}
	})
}

// The first answer to a token that came by no refusal says nothing, for a login may be revoked at once.
func TestATokenThatNoRefusalCausedBeginsNoRow(t *testing.T) {
	for _, status := range []int{401, 503} {
		synctest.Test(t, func(t *testing.T) {
			s := &servers{issuer: new(issuer)}
			cache := &tokensource.Cache{Source: s.issuer}
			answers := []int{401, 200, 401, status} // the first two to a refusal that is cured: so the guard watches
			auth := &transport.Auth{Source: cache, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				if len(answers) == 0 {
					return s.RoundTrip(req)
				}
				if len(answers) == 2 { // a login, while the request is on its way
					next, _ := s.Token(req.Context(), nil)
					cache.Set(req.Context(), next)
				}
				answer := answers[0]
				answers = answers[1:]
				return bodyAnswer(answer, http.NoBody), nil
			})}
			asks(t, auth, "https://api.example/")
			if got := asks(t, auth, "https://api.example/new"); got != status {
				t.Fatalf("got status %d, want that of the second attempt, %d", got, status)
			}
			s.revoke()
			if got := asks(t, auth, "https://api.example/new"); got != 200 {
				t.Errorf("after a %d and a revocation: got status %d, want a refresh and 200", status, got)
			}
		})
	}
}

func TestANewTokenIsGoodOnceItIsAcceptedAnywhereThoughItsFirstAnswerWasAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		broken := true
		auth := &transport.Auth{Source: &tokensource.Cache{Source: s.issuer}, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, err := s.RoundTrip(req)
			if resp.StatusCode == 200 && req.URL.Path == "/broken" && broken {
				resp.StatusCode = 503
			}
			return resp, err
		})}
		s.dead.Store(1)
		if got := asks(t, auth, "https://api.example/broken"); got != 503 {
			t.Fatalf("got status %d, want 503 with token-2", got)
		}
		asks(t, auth, "https://api.example/")
		s.revoke()
		broken = false
		if got := asks(t, auth, "https://api.example/broken"); got != 200 {
			t.Errorf("after a revocation: got status %d, want a refresh and 200", got)
		}
	})
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

// Each login brings a token that is young, and that the API refuses, too.
func TestLoginsDuringARowCauseNoRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(issuer)
		cache := &tokensource.Cache{Source: tokens}
		auth := &transport.Auth{Source: cache, Base: &api{likes: refuseAll}}
		get(t, auth)
		for i := range 10 {
			cache.Set(t.Context(), &tokensource.Token{AccessToken: fmt.Sprint("login-", i)})
			get(t, auth)
		}
		if got := tokens.issued.Load(); got != 2 {
			t.Errorf("%d token requests, want 2: the logins' tokens are too young", got)
		}
	})
}

// expiring gives tokens that expire after a second, which a request for /slow takes, once.
func expiring(s *servers) (auth *transport.Auth) {
	var slow sync.Once
	return &transport.Auth{
		Source: &tokensource.Cache{Source: tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
			token, err := s.Token(ctx, old)
			token.Expiry = time.Now().Add(time.Second)
			return token, err
		})},
		Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.URL.Path == "/slow" {
				slow.Do(func() { time.Sleep(time.Second) })
				s.revoke()
			}
			return s.RoundTrip(req)
		}),
	}
}

// A token that expires while a request is on its way is due anyway, whatever the guard would say of its refusal.
func TestATokenThatExpiresOnItsWayIsReplacedBesideARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		auth := expiring(s)
		asks(t, auth, "https://bad.example/")
		before := s.issued.Load()
		asks(t, auth, "https://api.example/slow")
		if got := s.issued.Load() - before; got != 1 {
			t.Errorf("%d refreshes for a token that has expired, want 1", got)
		}
	})
}

func TestTheTokenAfterOneThatExpiredOnItsWayBeginsNoRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		auth := expiring(s)
		if got := asks(t, auth, "https://api.example/slow"); got != 401 {
			t.Fatalf("got status %d, want the refusal of the second token", got)
		}
		if got := asks(t, auth, "https://api.example/"); got != 200 {
			t.Errorf("got status %d, want a refresh at once and 200", got)
		}
	})
}

// Two callers that were refused together get one token, but not at one moment.
func TestATokenThatComesToASecondCallerLaterIsNoYounger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked, refreshed atomic.Int32
		source := tokensource.Func(func(_ context.Context, old *tokensource.Token) (*tokensource.Token, error) {
			asked.Add(1)
			if old == nil && refreshed.Load() == 0 {
				return &tokensource.Token{AccessToken: "first"}, nil
			}
			switch refreshed.Add(1) {
			case 1:
				time.Sleep(10 * time.Millisecond)
			case 2:
				time.Sleep(time.Second)
			}
			return &tokensource.Token{AccessToken: "second"}, nil
		})
		auth := &transport.Auth{Source: source, Base: &api{likes: refuseAll, delay: 5 * time.Millisecond}}
		all(2, func() error { return ok(t, auth) })
		time.Sleep(1100 * time.Millisecond)
		before := asked.Load()
		get(t, auth)
		if got := asked.Load() - before; got != 2 {
			t.Errorf("the Source was asked %d times for a request, want twice: the second token came 2.1 s ago", got)
		}
	})
}

// A new token is revoked while the request that caused it is on its way again, and after others had it accepted.
func TestANewTokenThatOthersHadAcceptedBeginsNoRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		auth := &transport.Auth{Source: &tokensource.Cache{Source: s.issuer}}
		second := false
		auth.Base = roundTripper(func(req *http.Request) (*http.Response, error) {
			if !second && s.good(strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")) {
				second = true
				if got := asks(t, auth, "https://api.example/"); got != 200 {
					t.Errorf("another request got status %d, want 200", got)
				}
				s.revoke()
			}
			return s.RoundTrip(req)
		})
		s.dead.Store(1)
		if got := asks(t, auth, "https://api.example/"); got != 401 {
			t.Fatalf("got status %d, want the refusal of the second attempt", got)
		}
		if got := asks(t, auth, "https://api.example/other"); got != 200 {
			t.Errorf("got status %d, want a refresh and 200", got)
		}
	})
}

// After 2 s without a row an error that followed a refresh is forgotten.
func TestAnErrorAfterANewTokenIsHeldAgainstItForAMomentOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		broken := true
		auth := &transport.Auth{Source: &tokensource.Cache{Source: s.issuer}, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, err := s.RoundTrip(req)
			if broken && resp.StatusCode == 200 {
				resp.StatusCode = 503
			}
			return resp, err
		})}
		s.dead.Store(1)
		asks(t, auth, "https://api.example/")
		broken = false
		time.Sleep(5 * time.Second)
		for _, path := range []string{"/", "/other"} {
			s.revoke()
			if got := asks(t, auth, "https://api.example"+path); got != 200 {
				t.Errorf("%s: got status %d, want a refresh and 200", path, got)
			}
		}
		s.dead.Store(1 << 20)
		before := s.issued.Load()
		for range 100 {
			asks(t, auth, "https://api.example/")
		}
		if got := s.issued.Load() - before; got > 2 {
			t.Errorf("%d token requests for what is refused then, want at most 2", got)
		}
	})
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

// A late refusal of the token before tells nothing of the one in use, though a Source without Peek is asked for it.
func TestALateRefusalMakesTheTokenInUseNoYounger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		cache := &tokensource.Cache{Source: s.issuer}
		gate := make(chan struct{})
		auth := &transport.Auth{Source: tokensource.Func(cache.Token), Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.URL.Path == "/slow" {
				<-gate
			}
			return s.RoundTrip(req)
		})}
		asks(t, auth, "https://api.example/")
		late := make(chan int)
		go func() { late <- asks(t, auth, "https://api.example/slow") }()
		synctest.Wait()
		s.revoke()
		asks(t, auth, "https://api.example/")
		asks(t, auth, "https://bad.example/")
		time.Sleep(time.Minute)
		close(gate)
		if got := <-late; got != 200 {
			t.Errorf("the late request got status %d, want 200 with the token in use", got)
		}
		s.revoke()
		if got := asks(t, auth, "https://api.example/other"); got != 200 {
			t.Errorf("got status %d after a revocation, want a refresh and 200: the token was a minute old", got)
		}
	})
}
