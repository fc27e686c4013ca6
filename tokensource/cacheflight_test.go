package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

func TestCallersLeaveAtTheirOwnTimeAndTheRefreshGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(200*time.Millisecond, time.Hour)
		c := &tokensource.Cache{Source: s}
		start := time.Now()
		first, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		waiter, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer stop()
		began := make(chan time.Duration, 2)
		leave := func(ctx context.Context) {
			_, err := c.Token(ctx, nil)
			if err != ctx.Err() {
				t.Errorf("got error %v, want %v", err, ctx.Err())
			}
			began <- time.Since(start)
		}
		go leave(first)
		synctest.Wait()
		go leave(waiter)
		for _, err := range all(98, func(int) error { _, err := c.Token(t.Context(), nil); return err }) {
			if err != nil {
				t.Errorf("a caller that stayed got %v", err)
			}
		}
		if a, b := <-began, <-began; a != 10*time.Millisecond || b != 20*time.Millisecond {
			t.Errorf("left after %v and %v, want 10ms and 20ms", a, b)
		}
		wantCalls(t, s, 1)
		kept, _ := c.Token(t.Context(), nil)
		if kept.RefreshToken != "refresh-1" {
			t.Errorf("the rotated refresh token is %q, want refresh-1", kept.RefreshToken)
		}
	})
}

func TestARefreshThatEverybodyLeftIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(time.Second, time.Hour)
		c := &tokensource.Cache{Source: s}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		c.Token(ctx, nil)
		time.Sleep(2 * time.Second)
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "token-1")
		wantCalls(t, s, 1)
	})
}

func TestASourceThatNeverAnswersIsBoundedByTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(time.Hour, 0)
		c := &tokensource.Cache{Source: s, Timeout: 3 * time.Second}
		start := time.Now()
		for _, err := range all(100, func(int) error { _, err := c.Token(t.Context(), nil); return err }) {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want DeadlineExceeded", err)
			}
		}
		if got := time.Since(start); got != 3*time.Second {
			t.Errorf("answered after %v, want 3s", got)
		}
		synctest.Wait() // the first call has ended
		s.answer = numbered(0, time.Hour).answer
		time.Sleep(time.Second)
		_, err := c.Token(t.Context(), nil)
		if err != nil {
			t.Errorf("the next call: %v", err)
		}
		wantCalls(t, s, 2)
	})
}

func TestASourceThatIgnoresItsContextIsNeverCalledTwiceAtOnceAndItsLateTokenIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: func(_ context.Context, n int, _ *Token) (*Token, error) {
			time.Sleep(10 * time.Second)
			return &Token{AccessToken: fmt.Sprintf("token-%d", n)}, nil
		}}
		c := &tokensource.Cache{Source: s, Timeout: time.Second}
		for range 3 {
			if _, err := c.Token(t.Context(), nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want DeadlineExceeded", err)
			}
			time.Sleep(time.Second)
		}
		wantCalls(t, s, 1)
		time.Sleep(5 * time.Second)
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "token-1")
		wantCalls(t, s, 1)
	})
}

func TestALateTokenServesACallerThatCameInTheMeantime(t *testing.T) {
	for range 20 { // two things happen at one moment
		synctest.Test(t, func(t *testing.T) {
			s := &source{answer: func(context.Context, int, *Token) (*Token, error) {
				time.Sleep(10 * time.Second)
				return &Token{AccessToken: "late"}, nil
			}}
			c := &tokensource.Cache{Source: s, Timeout: 6 * time.Second}
			c.Token(t.Context(), nil)
			time.Sleep(2 * time.Second) // the pause is over
			got, err := c.Token(t.Context(), nil)
			wantToken(t, got, err, "late")
			synctest.Wait()
			wantCalls(t, s, 1)
		})
	}
}

func TestALateAnswerThatALoginIsNeededIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: func(context.Context, int, *Token) (*Token, error) {
			time.Sleep(10 * time.Second)
			return nil, tokensource.ErrReauthenticate
		}}
		c := &tokensource.Cache{Source: s, Timeout: time.Second}
		c.Token(t.Context(), nil)
		time.Sleep(time.Minute)
		if _, err := c.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("got %v, want ErrReauthenticate", err)
		}
		wantCalls(t, s, 1)
	})
}

func TestASourceThatPanicsOrExitsIsAnErrorForAllAndTheNextCallCanSucceed(t *testing.T) {
	for name, misbehave := range map[string]func(){
		"panicked: boom": func() { panic("boom") },
		"panicked: ":     func() { panic(nil) },
		"runtime.Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &source{answer: func(context.Context, int, *Token) (*Token, error) {
					time.Sleep(time.Millisecond)
					misbehave()
					return nil, nil
				}}
				c := &tokensource.Cache{Source: s, Patience: -1}
				for _, err := range all(10, func(int) error { _, err := c.Token(t.Context(), nil); return err }) {
					if err == nil || !strings.Contains(err.Error(), name) {
						t.Errorf("got %v, want an error that has %s", err, name)
					}
				}
				s.answer = numbered(0, 0).answer
				time.Sleep(time.Second)
				if _, err := c.Token(t.Context(), nil); err != nil {
					t.Errorf("the next call: %v", err)
				}
				wantCalls(t, s, 2)
			})
		})
	}
}

func TestACallThatEndsByGoexitAfterASetDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: func(_ context.Context, n int, _ *Token) (*Token, error) {
			time.Sleep(time.Second)
			if n == 1 {
				runtime.Goexit()
			}
			return numbered(0, 0).answer(t.Context(), n, nil)
		}}
		c := &tokensource.Cache{Source: s}
		began := time.Now()
		go func() {
			time.Sleep(time.Second / 2)
			c.Set(t.Context(), &Token{RefreshToken: "r"})
		}()
		if tok, err := c.Token(t.Context(), nil); err != nil || time.Since(began) != 2*time.Second {
			t.Errorf("got %v, %v after %v, want a token of the second call after 2 s", tok, err, time.Since(began))
		}
	})
}

func TestTheContextOfARefreshEndsWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var given context.Context
		c := &tokensource.Cache{Source: tokensource.Func(func(ctx context.Context, _ *Token) (*Token, error) {
			given = ctx
			return &Token{AccessToken: "a"}, ctx.Err()
		})}
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "a")
		synctest.Wait()
		if given.Err() == nil {
			t.Error("the context goes on, want it to end")
		}
	})
}

func TestEverybodyWaitsForARefreshThatARefusalCaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(0, 0)
		c := &tokensource.Cache{Source: s}
		first, _ := c.Token(t.Context(), nil)
		answer := s.answer
		s.answer = func(ctx context.Context, n int, old *Token) (*Token, error) {
			time.Sleep(900 * time.Millisecond)
			return answer(ctx, n, old)
		}
		go c.Token(t.Context(), first)
		synctest.Wait()
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "token-2")
	})
}

func TestALateTokenCountsForTheCallersThatItServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := make(chan tokensource.Refresh, 2)
		c := &tokensource.Cache{Source: late(), Timeout: 6 * time.Second, OnRefresh: func(r tokensource.Refresh) { events <- r }}
		now := time.Now()
		c.Set(t.Context(), &Token{AccessToken: "good", RefreshAt: now.Add(90 * time.Second), Expiry: now.Add(100 * time.Second)})
		time.Sleep(90 * time.Second)
		c.Token(t.Context(), nil) // an early refresh, which is given up after 6 s
		time.Sleep(10 * time.Second)
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "late")
		<-events // that it was given up
		if last := <-events; last != (tokensource.Refresh{Cause: tokensource.Expired, Duration: 5 * time.Second, Waiters: 1}) {
			t.Errorf("got %+v, want one that waited 5s, because the token had expired", last)
		}
	})
}

func TestACallerWhoseContextHasEndedCausesNoRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(0, 0)
		c := &tokensource.Cache{Source: s}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Token(ctx, nil); err != context.Canceled {
			t.Errorf("got %v, want context.Canceled", err)
		}
		synctest.Wait()
		wantCalls(t, s, 0)
	})
}

func TestTheCallersHTTPTraceDoesNotSeeTheTokenEndpoint(t *testing.T) {
	s := &source{answer: func(ctx context.Context, _ int, _ *Token) (*Token, error) {
		if httptrace.ContextClientTrace(ctx) != nil {
			t.Error("the source got the caller's trace")
		}
		if got := ctx.Value(key{}); got != "value" {
			t.Errorf("the source got the value %v, want the caller's", got)
		}
		return &Token{AccessToken: "a"}, nil
	}}
	ctx := context.WithValue(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{}), key{}, "value")
	(&tokensource.Cache{Source: s}).Token(ctx, nil)
}

func TestTheCallersHTTPTraceDoesNotSeeTheTokenEndpointsConnection(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	s := &source{answer: func(ctx context.Context, _ int, _ *Token) (*Token, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
		if err != nil {
			return nil, err
		}
		return &Token{AccessToken: "a"}, conn.Close()
	}}
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		ConnectStart: func(string, string) { t.Error("the caller's trace saw the connection") },
	})
	if _, err := (&tokensource.Cache{Source: s}).Token(ctx, nil); err != nil {
		t.Error(err)
	}
}

func TestATokenThatComesAtTheTimeoutIsNoFailure(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			s := &source{answer: func(ctx context.Context, n int, _ *Token) (*Token, error) {
				if n == 1 {
					<-ctx.Done()
				}
				return &Token{AccessToken: fmt.Sprint(n)}, nil
			}}
			c := &tokensource.Cache{Source: s, Timeout: time.Second, Patience: -1}
			c.Token(t.Context(), nil)
			synctest.Wait()
			tok, err := c.Token(t.Context(), nil)
			if err != nil {
				t.Fatalf("got %v, want the token", err)
			}
			if next, err := c.Token(t.Context(), tok); err != nil || next.AccessToken != "2" {
				t.Fatalf("got %v, %v after it was refused, want the next: nothing has failed since", next, err)
			}
		})
	}
}
