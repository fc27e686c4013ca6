package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// The tenant of a request, as a handler puts it into the context.
type tenantKey struct{}

func tenant(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, tenantKey{}, name)
}

var errNoTenant = errors.New("no tenant in the context")

func tenantOf(ctx context.Context) (string, error) {
	name, ok := ctx.Value(tenantKey{}).(string)
	if !ok {
		return "", errNoTenant
	}
	return name, nil
}

// byTenant keeps a Cache over a source for each tenant.
func byTenant(source func(name string) tokensource.Source) *tokensource.Keyed[string] {
	return &tokensource.Keyed[string]{
		Key: tenantOf,
		New: func(name string) *tokensource.Cache { return &tokensource.Cache{Source: source(name)} },
	}
}

// named gives the tenant's name and a number, and counts the calls.
func named(calls *atomic.Int32) func(string) tokensource.Source {
	return func(name string) tokensource.Source {
		return tokensource.Func(func(ctx context.Context, _ *Token) (*Token, error) {
			return &Token{AccessToken: fmt.Sprintf("%s-%d", name, calls.Add(1))}, nil
		})
	}
}

func TestEachKeyHasATokenOfItsOwn(t *testing.T) {
	var calls atomic.Int32
	k := byTenant(named(&calls))
	for range 2 {
		for i, name := range []string{"a", "b"} {
			got, err := k.Token(tenant(t.Context(), name), nil)
			wantToken(t, got, err, fmt.Sprintf("%s-%d", name, i+1))
		}
	}
	first, _ := k.Token(tenant(t.Context(), "a"), nil)
	got, err := k.Token(tenant(t.Context(), "a"), first)
	wantToken(t, got, err, "a-3")
}

func TestTheSourceSeesTheContextOfTheKey(t *testing.T) {
	k := byTenant(func(string) tokensource.Source {
		return tokensource.Func(func(ctx context.Context, _ *Token) (*Token, error) {
			name, err := tenantOf(ctx)
			return &Token{AccessToken: name}, err
		})
	})
	all(100, func(i int) error {
		name := fmt.Sprint("tenant-", i%10)
		got, err := k.Token(tenant(t.Context(), name), nil)
		wantToken(t, got, err, name)
		return nil
	})
}

func TestKeysMayBeOfAnyComparableType(t *testing.T) {
	type id struct {
		tenant string
		user   int
	}
	k := &tokensource.Keyed[id]{
		Key: func(ctx context.Context) (id, error) { return id{"t", ctx.Value(tenantKey{}).(int)}, nil },
		New: func(k id) *tokensource.Cache {
			return &tokensource.Cache{Source: tokensource.Static(&Token{AccessToken: fmt.Sprint(k.tenant, k.user)})}
		},
	}
	got, err := k.Token(context.WithValue(t.Context(), tenantKey{}, 7), nil)
	wantToken(t, got, err, "t7")
}

func TestASlowOrFailingKeyDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(func(name string) tokensource.Source {
			switch name {
			case "slow":
				return numbered(time.Hour, 0)
			case "failing":
				return failing(unavailable)
			}
			return tokensource.Static(&Token{AccessToken: name})
		})
		go k.Token(tenant(t.Context(), "slow"), nil)
		go k.Token(tenant(t.Context(), "failing"), nil)
		synctest.Wait()
		began := time.Now()
		got, err := k.Token(tenant(t.Context(), "good"), nil)
		wantToken(t, got, err, "good")
		if waited := time.Since(began); waited != 0 {
			t.Errorf("waited %v", waited)
		}
		time.Sleep(time.Minute) // the slow one's Timeout
	})
}

func TestARequestWithoutAKeyFails(t *testing.T) {
	var calls atomic.Int32
	if _, err := byTenant(named(&calls)).Token(t.Context(), nil); !errors.Is(err, errNoTenant) || !strings.Contains(err.Error(), "Keyed.Key") {
		t.Errorf("got %v, want one that wraps the error of Key and names it", err)
	}
	nan := &tokensource.Keyed[float64]{
		Key: func(context.Context) (float64, error) { var zero float64; return zero / zero, nil },
		New: func(float64) *tokensource.Cache { return nil },
	}
	if _, err := nan.Token(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "does not equal itself") {
		t.Errorf("NaN: got %v", err)
	}
	var calledTwice int
	two := &tokensource.Keyed[int]{
		Key: func(context.Context) (int, error) { calledTwice++; return calledTwice, nil },
		New: func(int) *tokensource.Cache { return &tokensource.Cache{Source: numbered(0, 0)} },
	}
	if _, err := two.Token(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "two keys for one context") {
		t.Errorf("two keys for one context: got %v", err)
	}
	once := &tokensource.Keyed[int]{New: two.New, Key: func(context.Context) (int, error) {
		if calledTwice++; calledTwice%2 == 0 {
			return 0, errNoTenant
		}
		return 0, nil
	}}
	calledTwice = 0
	if _, err := once.Token(t.Context(), nil); !errors.Is(err, errNoTenant) {
		t.Errorf("a key that is found once: got %v, want the error of Key", err)
	}
	none := byTenant(nil)
	none.New = func(string) *tokensource.Cache { return nil }
	if _, err := none.Token(tenant(t.Context(), "a"), nil); err == nil || !strings.Contains(err.Error(), "Keyed.New") {
		t.Errorf("New returns nil: got %v", err)
	}
	if _, err := new(tokensource.Keyed[int]).Token(t.Context(), nil); err == nil {
		t.Error("without Key and New: got no error")
	}
}

func TestALoginALogoutAndATokenFromAnAnswerGoToTheirKey(t *testing.T) {
	var calls atomic.Int32
	k := byTenant(named(&calls))
	a, b := tenant(t.Context(), "a"), tenant(t.Context(), "b")
	k.Set(a, &Token{AccessToken: "login"})
	got, err := k.Token(a, nil)
	wantToken(t, got, err, "login")
	k.Replace(a, got, &Token{AccessToken: "answer"})
	got, err = k.Token(a, nil)
	wantToken(t, got, err, "answer")
	k.Forget(a)
	if _, err := k.Token(a, nil); !errors.Is(err, tokensource.ErrReauthenticate) {
		t.Errorf("after Forget: got %v, want ErrReauthenticate", err)
	}
	got, err = k.Token(b, nil)
	wantToken(t, got, err, "b-1")
}

func TestWhatAKeysCacheSaysOfALoginComesBack(t *testing.T) {
	k := byTenant(func(string) tokensource.Source {
		return &teller{source: numbered(0, 0), set: func(*Token) error { return errAway }, forget: func() error { return errAway }}
	})
	ctx, first := tenant(t.Context(), "a"), &Token{AccessToken: "first"}
	for name, err := range map[string]error{
		"Set":     k.Set(ctx, first),
		"Replace": k.Replace(ctx, first, &Token{AccessToken: "second"}),
		"Forget":  k.Forget(ctx),
	} {
		if err != errAway {
			t.Errorf("%s: got %v, want the source's error", name, err)
		}
	}
}

func TestAKeyedThatLacksAFieldNamesIt(t *testing.T) {
	for _, k := range []*tokensource.Keyed[string]{{Key: tenantOf}, {New: func(string) *tokensource.Cache { return nil }}} {
		if _, err := k.Token(tenant(t.Context(), "a"), nil); err == nil || !strings.Contains(err.Error(), "Keyed.Key or Keyed.New") {
			t.Errorf("got %v, want an error that names the fields", err)
		}
	}
}

func TestNewMayBeSlowAndMayNotUseItsKeyedForTheSameKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k *tokensource.Keyed[string]
		var made atomic.Int32
		k = byTenant(nil)
		k.New = func(name string) *tokensource.Cache {
			c := &tokensource.Cache{Source: tokensource.Static(&Token{AccessToken: name})}
			switch made.Add(1); name {
			case "slow":
				time.Sleep(time.Second)
			case "itself":
				_, err := k.Token(tenant(t.Context(), name), nil)
				c.Source = failing(err)
			}
			return c
		}
		slow := tenant(t.Context(), "slow")
		go k.Token(slow, nil)
		synctest.Wait()
		began := time.Now()
		got, err := k.Token(tenant(t.Context(), "other"), nil)
		if wantToken(t, got, err, "other"); time.Since(began) != 0 {
			t.Errorf("another key waited %v", time.Since(began))
		}
		short, cancel := context.WithTimeout(slow, 100*time.Millisecond)
		defer cancel()
		if _, err := k.Token(short, nil); err != context.DeadlineExceeded {
			t.Errorf("got %v, want the caller's own DeadlineExceeded", err)
		}
		if _, err := k.Token(tenant(t.Context(), "itself"), nil); err == nil || !strings.Contains(err.Error(), "Keyed.New: it uses a Keyed") {
			t.Errorf("got %v, want an error that tells of New", err)
		}
		got, err = k.Token(slow, nil)
		if wantToken(t, got, err, "slow"); made.Load() != 3 {
			t.Errorf("New was called %d times, want 3", made.Load())
		}
	})
}

func TestANewThatPanicsOrReturnsNilIsCalledAgain(t *testing.T) {
	var calls int
	k := byTenant(nil)
	k.New = func(string) *tokensource.Cache {
		switch calls++; calls {
		case 1:
			panic("boom")
		case 2:
			return nil
		}
		return &tokensource.Cache{Source: tokensource.Static(&Token{AccessToken: "a"})}
	}
	ctx := tenant(t.Context(), "a")
	func() {
		defer func() { recover() }()
		k.Token(ctx, nil)
	}()
	if _, err := k.Token(ctx, nil); err == nil {
		t.Error("got no error, want that New returned nil")
	}
	got, err := k.Token(ctx, nil)
	wantToken(t, got, err, "a")
}

type realmKey struct{}

// A pooled context is one that a framework uses again for the next request.
type pooled struct {
	context.Context
	user atomic.Pointer[string]
}

func (p *pooled) Value(key any) any {
	if key == (tenantKey{}) {
		return *p.user.Load()
	}
	return p.Context.Value(key)
}

func TestARefreshHasWhatKeyReadThoughItsContextIsUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(func(string) tokensource.Source {
			return tokensource.Func(func(ctx context.Context, _ *Token) (*Token, error) {
				time.Sleep(time.Second)
				name, err := tenantOf(ctx)
				realm, _ := ctx.Value(realmKey{}).(string) // Key does not read it
				return &Token{AccessToken: "of-" + name + realm, Expiry: time.Now().Add(time.Hour)}, err
			})
		})
		alice, bob := "alice", "bob"
		ctx := &pooled{Context: context.WithValue(t.Context(), realmKey{}, "@realm")}
		ctx.user.Store(&alice)
		k.Token(ctx, nil)
		time.Sleep(55 * time.Minute)
		k.Token(ctx, nil) // returns at once; an early refresh goes on
		ctx.user.Store(&bob)
		time.Sleep(2 * time.Second)
		got, err := k.Token(tenant(t.Context(), "alice"), nil)
		wantToken(t, got, err, "of-alice@realm")
	})
}

func TestKeysThatComeAndGoAtOnceNeverMixTokens(t *testing.T) {
	var calls atomic.Int32
	k := byTenant(named(&calls))
	k.MaxKeys = 5
	for _, err := range all(8, func(int) error {
		for i := range 2000 {
			name := fmt.Sprint("tenant", i%11)
			got, err := k.Token(tenant(t.Context(), name), nil)
			if err != nil && !errors.Is(err, tokensource.ErrKeysFull) {
				return err
			}
			if err == nil && !strings.HasPrefix(got.AccessToken, name+"-") {
				return fmt.Errorf("%s got the token %s", name, got.AccessToken)
			}
		}
		return nil
	}) {
		if err != nil {
			t.Error(err)
		}
	}
}

func TestPeekOfAKeyAsksItsCacheAndMakesNone(t *testing.T) {
	var calls atomic.Int32
	k := byTenant(named(&calls))
	a, b := tenant(t.Context(), "a"), tenant(t.Context(), "b")
	first, err := k.Token(a, nil)
	wantToken(t, first, err, "a-1")
	wantToken(t, k.Peek(a, nil), nil, "a-1")
	for name, got := range map[string]*Token{
		"the same key, the same token": k.Peek(a, first),
		"a key without a Cache":        k.Peek(b, nil),
		"a context without a key":      k.Peek(t.Context(), nil),
		"a Keyed without Key":          new(tokensource.Keyed[string]).Peek(a, nil),
	} {
		if got != nil {
			t.Errorf("%s: got %v, want nil", name, got)
		}
	}
	if calls.Load() != 1 {
		t.Errorf("the sources were called %d times, want 1", calls.Load())
	}
}
