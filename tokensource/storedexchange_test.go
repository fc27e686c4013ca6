package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

func TestAWaiterForTheLockLeavesAtItsOwnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(storetest.Memory)
		slow := newProcess(store, &family{delay: 9 * time.Second})
		go slow.Token(t.Context(), nil)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		_, err := newProcess(store, &family{}).stored.Token(ctx, nil)
		if waited := time.Since(began); err != context.DeadlineExceeded || waited != 3*time.Second {
			t.Errorf("got %v after %v, want DeadlineExceeded after 3s", err, waited)
		}
		time.Sleep(10 * time.Second)
	})
}

func TestAnExchangeOutlivesItsCallerAndIsSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), &family{delay: 5 * time.Second}
		ctx, cancel := context.WithCancel(t.Context())
		go newProcess(store, server).stored.Token(ctx, nil)
		synctest.Wait()
		cancel()
		time.Sleep(6 * time.Second)
		if got := value(t, store); got.Token.Refresh_Token != "refresh-1" {
			t.Errorf("the store has %+v, want refresh-1", got)
		}
	})
}

func TestAnExchangeIsBoundedAndItsSaveHasTimeOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), &family{delay: time.Hour}
		p := newProcess(store, server)
		began := time.Now()
		_, err := p.stored.Token(t.Context(), nil)
		if waited := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || waited != 10*time.Second {
			t.Errorf("got %v after %v, want DeadlineExceeded after 10s", err, waited)
		}
		server.delay = 9 * time.Second
		store.save.Store(true)
		time.AfterFunc(9*time.Second+14*time.Second, func() { store.save.Store(false) })
		got, err := p.stored.Token(t.Context(), nil)
		wantToken(t, got, err, "access-2")
		if got := value(t, store); got.Token.Access_Token != "access-2" {
			t.Errorf("the store has %+v, want access-2", got)
		}
	})
}

func TestASourceThatPanicsFreesTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(storetest.Memory)
		p := newProcess(store, tokensource.Func(func(context.Context, *Token) (*Token, error) { panic("boom") }))
		if _, err := p.Token(t.Context(), nil); err == nil {
			t.Error("got no error")
		}
		got, err := newProcess(store, new(family)).Token(t.Context(), nil)
		wantToken(t, got, err, "access-1")
	})
}

func TestASetThatCannotGetTheLockEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(brokenStore)
		store.hang.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := newProcess(store, new(family)).stored.Token(ctx, nil); err != context.DeadlineExceeded {
			t.Errorf("Load hangs: got %v, want DeadlineExceeded", err)
		}
		go newProcess(&store.Memory, &family{delay: 9 * time.Second}).stored.Token(t.Context(), nil)
		synctest.Wait()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := newProcess(store, new(family)).stored.Set(ctx, &Token{AccessToken: "a"}); err != context.DeadlineExceeded {
			t.Errorf("Set: got %v, want DeadlineExceeded", err)
		}
		time.Sleep(10 * time.Second)
	})
}

func TestTheTokenOfWhoWonTheExchangeBeatsTheRefusalOfTheOthers(t *testing.T) {
	for _, keeps := range []bool{false, true} { // the server's: a refresh token that it keeps is refused rightly
		synctest.Test(t, func(t *testing.T) {
			store := new(storetest.Memory)
			winners := &brokenStore{shared: store}
			var calls int
			source := tokensource.Func(func(_ context.Context, old *Token) (*Token, error) {
				if calls++; calls > 1 {
					return nil, fmt.Errorf("%w: %s", tokensource.ErrReauthenticate, old.RefreshToken)
				}
				winners.cut(true)
				return &Token{AccessToken: "won", RefreshToken: map[bool]string{true: "R1", false: "R2"}[keeps]}, nil
			})
			winner, loser := newProcess(winners, source).stored, newProcess(store, source).stored
			first := &Token{AccessToken: "first", RefreshToken: "R1"}
			winner.Set(t.Context(), first)
			got, err := winner.Token(t.Context(), first)
			wantToken(t, got, err, "won")
			if _, err := loser.Token(t.Context(), first); !errors.Is(err, tokensource.ErrReauthenticate) {
				t.Fatalf("got %v, want ErrReauthenticate", err)
			}
			winners.cut(false)
			for _, s := range []*tokensource.Stored{winner, loser, newProcess(store, source).stored} {
				got, err := s.Token(t.Context(), first)
				if keeps && !errors.Is(err, tokensource.ErrReauthenticate) || !keeps && (err != nil || got.AccessToken != "won") {
					t.Errorf("the server keeps the refresh token: %t: got %v, %v", keeps, got, err)
				}
			}
		})
	}
}

func TestATokenWithoutRefreshTokenBeatsTheRefusalOfTheOthersToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(storetest.Memory)
		winners := &brokenStore{shared: store}
		var calls int
		source := tokensource.Func(func(context.Context, *Token) (*Token, error) {
			if calls++; calls > 1 {
				return nil, tokensource.ErrReauthenticate
			}
			winners.cut(true)
			return &Token{AccessToken: "won"}, nil
		})
		winner, loser := newProcess(winners, source).stored, newProcess(store, source).stored
		winner.Set(t.Context(), &Token{AccessToken: "first", Expiry: time.Now().Add(time.Minute)})
		time.Sleep(time.Minute)
		got, err := winner.Token(t.Context(), nil)
		wantToken(t, got, err, "won")
		if _, err := loser.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) || !value(t, store).Reauthenticate {
			t.Fatalf("got %v, want ErrReauthenticate for all", err)
		}
		winners.cut(false)
		for _, s := range []*tokensource.Stored{winner, loser} {
			got, err := s.Token(t.Context(), nil)
			wantToken(t, got, err, "won")
		}
	})
}

func TestAFailedSaveCostsNoExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), &family{life: time.Hour}
		p := newProcess(store, server)
		p.stored.Source = tokensource.Func(func(ctx context.Context, old *Token) (*Token, error) {
			store.cut(server.calls.Load() == 0)
			return server.Token(ctx, old)
		})
		first, err := p.Token(t.Context(), nil)
		wantToken(t, first, err, "access-1")
		store.cut(false)
		for range 60 {
			time.Sleep(time.Second)
			p.Token(t.Context(), nil)
			synctest.Wait()
		}
		if got := server.calls.Load(); got != 1 || p.stored.Pending() {
			t.Errorf("%d exchanges within a minute, pending %t, want 1 and the token saved", got, p.stored.Pending())
		}
		current, _ := p.Token(t.Context(), nil)
		got, err := p.Token(t.Context(), current) // refused
		wantToken(t, got, err, "access-2")
	})
}

// A token that is served because the store is away is to be asked for again after a second:
// then it will do. Whatever else is asked for again was refused, or its time has come.
func TestOnlyATokenThatWasToBeAskedForAgainIsServedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), &family{life: time.Hour}
		s := newProcess(store, tokensource.Func(func(ctx context.Context, old *Token) (*Token, error) {
			token, err := server.Token(ctx, old)
			token.RefreshAt = time.Now().Add(time.Minute)
			return token, err
		})).stored
		again := func(passes time.Duration, old *Token, want string) *Token {
			t.Helper()
			time.Sleep(passes)
			got, err := s.Token(t.Context(), old)
			wantToken(t, got, err, want)
			return got
		}
		again(0, nil, "access-1")
		second := again(time.Second, &Token{AccessToken: "access-1"}, "access-2")
		again(time.Minute, second, "access-3")
		for passes, want := range []string{"access-4", "access-4"} { // refused at once, or asked for in time
			store.load.Store(true)
			soon := again(0, nil, map[bool]string{true: "access-3", false: "access-4"}[passes == 0])
			store.load.Store(false)
			again(time.Duration(passes)*time.Second, soon, want)
		}
	})
}

func TestTimeoutBoundsACallWithoutTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(brokenStore)
		store.load.Store(true)
		s := newProcess(store, &family{delay: time.Hour}).stored
		s.Unshared, s.Timeout = true, 7*time.Second
		began := time.Now()
		_, err := s.Token(t.Context(), nil)
		if took := time.Since(began); took != s.Timeout || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v after %v, want DeadlineExceeded after 7s", err, took)
		}
	})
}
