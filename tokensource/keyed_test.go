package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
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

func TestAKeyThatWasNotUsedForLongMakesRoom(t *testing.T) {
	var calls atomic.Int32
	k := byTenant(named(&calls))
	k.MaxKeys = 3
	ask := func(names ...string) {
		for _, name := range names {
			if _, err := k.Token(tenant(t.Context(), name), nil); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	ask("a", "b", "c", "d") // d takes the place of one of the three, and all have been passed by
	ask("c", "b", "a", "b", "c", "d")
	calls.Store(0)
	for i := range 100 { // new ones come, b is used in between
		ask("b", fmt.Sprint(i))
	}
	if got := calls.Load(); got > 101 {
		t.Errorf("%d tokens were obtained for 100 new keys and one in use, want at most 101", got)
	}
}

// rotating gives tokens with refresh tokens; those of "plain" have none.
func rotating(name string) tokensource.Source {
	return tokensource.Func(func(context.Context, *Token) (*Token, error) {
		if name == "plain" {
			return &Token{AccessToken: name}, nil
		}
		return &Token{AccessToken: name, RefreshToken: "refresh-" + name}, nil
	})
}

func TestARefreshTokenThatWouldBeLostMakesNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(rotating)
		k.MaxKeys = 2
		ask := func(name string) error { _, err := k.Token(tenant(t.Context(), name), nil); return err }
		if err := errors.Join(ask("a"), ask("plain"), ask("b")); err != nil {
			t.Errorf("with room: %v", err)
		}
		for range 3 {
			if err := ask("c"); !errors.Is(err, tokensource.ErrKeysFull) {
				t.Errorf("without: got %v, want ErrKeysFull", err)
			}
		}
		if err := errors.Join(ask("a"), ask("b")); err != nil {
			t.Errorf("keys that are there: %v", err)
		}
		k.Forget(tenant(t.Context(), "b"))
		time.Sleep(time.Second)
		if err := ask("c"); err != nil {
			t.Errorf("after a logout: %v", err)
		}
	})
}

func TestAKeyInUseMakesNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(func(name string) tokensource.Source {
			return tokensource.Func(func(ctx context.Context, _ *Token) (*Token, error) {
				return &Token{AccessToken: name}, wait(ctx, 10*time.Second)
			})
		})
		k.MaxKeys = 1
		ctx, cancel := context.WithCancel(tenant(t.Context(), "a"))
		go k.Token(ctx, nil)
		synctest.Wait()
		ask := func() error { _, err := k.Token(tenant(t.Context(), "b"), nil); return err }
		if err := ask(); !errors.Is(err, tokensource.ErrKeysFull) {
			t.Errorf("with a caller: got %v, want ErrKeysFull", err)
		}
		cancel() // the refresh goes on
		time.Sleep(2 * time.Second)
		if err := ask(); !errors.Is(err, tokensource.ErrKeysFull) {
			t.Errorf("with a refresh: got %v, want ErrKeysFull", err)
		}
		time.Sleep(10 * time.Second)
		if err := ask(); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
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

func TestAKeyThatManyUseFirstAtOnceGetsOneCacheAndMakesRoomLater(t *testing.T) {
	for range 200 {
		var calls atomic.Int32
		k := byTenant(named(&calls))
		k.MaxKeys = 1
		all(20, func(int) error { return second(k.Token(tenant(t.Context(), "a"), nil)) })
		if got := calls.Load(); got != 1 {
			t.Fatalf("%d token requests for one key, want 1", got)
		}
		for _, name := range []string{"b", "a"} { // each makes room for the next
			got, err := k.Token(tenant(t.Context(), name), nil)
			wantToken(t, got, err, fmt.Sprintf("%s-%d", name, calls.Load()))
		}
		if got := calls.Load(); got != 3 {
			t.Errorf("%d token requests, want 3: two keys made room, and have forgotten", got)
		}
	}
}

func TestAKeyWhoseLoginIsOnItsWayMakesNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(func(name string) tokensource.Source {
			return &teller{source: numbered(0, 0), set: func(*Token) error { time.Sleep(time.Second); return nil }}
		})
		k.MaxKeys = 1
		go k.Set(tenant(t.Context(), "a"), &Token{AccessToken: "login"})
		synctest.Wait()
		if _, err := k.Token(tenant(t.Context(), "b"), nil); err != tokensource.ErrKeysFull {
			t.Errorf("got %v, want ErrKeysFull", err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if _, err := k.Token(tenant(t.Context(), "b"), nil); err != nil {
			t.Errorf("after the login: got %v, want a token", err)
		}
	})
}

func TestAKeyWhoseTokenIsLateMakesNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &tokensource.Keyed[string]{Key: tenantOf, MaxKeys: 1}
		k.New = func(string) *tokensource.Cache { return &tokensource.Cache{Source: late(), Timeout: time.Second} }
		k.Token(tenant(t.Context(), "a"), nil)
		if _, err := k.Token(tenant(t.Context(), "b"), nil); err != tokensource.ErrKeysFull {
			t.Errorf("got %v, want ErrKeysFull: the token may come with a refresh token", err)
		}
		time.Sleep(15 * time.Second)
	})
}

// loginOnly has no token but by a login.
func loginOnly(string) tokensource.Source { return failing(tokensource.ErrReauthenticate) }

func TestALoginThatHasDiedMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(loginOnly)
		k.MaxKeys = 1
		a, b := tenant(t.Context(), "a"), tenant(t.Context(), "b")
		k.Set(a, &Token{AccessToken: "a", RefreshToken: "dead", Expiry: time.Now().Add(time.Hour)})
		login := func() error { return k.Set(b, &Token{AccessToken: "b"}) }
		for _, c := range []struct {
			passes time.Duration
			want   error
		}{
			{59 * time.Minute, tokensource.ErrKeysFull}, // an early refresh tells that it is dead, the access token is good
			{time.Second, tokensource.ErrKeysFull},
			{time.Minute, nil},
		} {
			time.Sleep(c.passes)
			k.Token(a, nil)
			synctest.Wait()
			if err := login(); err != c.want {
				t.Errorf("after %v more: got %v, want %v", c.passes, err, c.want)
			}
		}
	})
}

// Its Source has no other: an early refresh tells that the refresh token is dead.
func TestAGoodTokenOfADeadRefreshTokenMakesNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(func(string) tokensource.Source {
			return tokensource.Func(func(_ context.Context, old *Token) (*Token, error) {
				if old != nil {
					return nil, tokensource.ErrReauthenticate
				}
				return &Token{AccessToken: "a", RefreshToken: "r", Expiry: time.Now().Add(time.Hour)}, nil
			})
		})
		k.MaxKeys = 1
		a, b := tenant(t.Context(), "a"), tenant(t.Context(), "b")
		k.Token(a, nil)
		time.Sleep(59 * time.Minute)
		k.Token(a, nil)
		synctest.Wait()
		for _, want := range []error{tokensource.ErrKeysFull, nil} {
			if _, err := k.Token(b, nil); err != want {
				t.Errorf("got %v, want %v", err, want)
			}
			time.Sleep(time.Minute)
		}
	})
}

func TestAGoodLoginWithoutRefreshTokenMakesNoRoomUntilItHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(loginOnly)
		k.MaxKeys = 2
		a := tenant(t.Context(), "a")
		if err := k.Set(a, &Token{AccessToken: "a", Expiry: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			k.Token(tenant(t.Context(), fmt.Sprint("stranger-", i)), nil)
		}
		got, err := k.Token(a, nil)
		wantToken(t, got, err, "a")
		time.Sleep(time.Hour)
		for i := range 3 {
			if err := k.Set(tenant(t.Context(), fmt.Sprint("b", i%2)), &Token{AccessToken: "b"}); err != nil {
				t.Errorf("after it has expired: %v", err)
			}
		}
	})
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

func TestARoomThatComesIsSeenAfterASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(rotating)
		k.MaxKeys = 1
		a, b := tenant(t.Context(), "a"), tenant(t.Context(), "b")
		k.Token(a, nil)
		if _, err := k.Token(b, nil); err != tokensource.ErrKeysFull {
			t.Errorf("got %v, want ErrKeysFull", err)
		}
		k.Forget(a) // there is room now
		for _, want := range []error{tokensource.ErrKeysFull, nil} {
			if _, err := k.Token(b, nil); err != want {
				t.Errorf("got %v, want %v", err, want)
			}
			time.Sleep(time.Second)
		}
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

// fill makes n keys with a token each, and returns a context of each.
func fill(t testing.TB, k *tokensource.Keyed[int], n int) []context.Context {
	all := make([]context.Context, n)
	for i := range all {
		all[i] = context.WithValue(t.Context(), tenantKey{}, i)
		if _, err := k.Token(all[i], nil); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func numberedKeys(max int) *tokensource.Keyed[int] {
	source := tokensource.Func(func(ctx context.Context, _ *Token) (*Token, error) {
		return &Token{AccessToken: fmt.Sprintf("opaque-access-token-%032d", ctx.Value(tenantKey{})), Expiry: time.Now().Add(time.Hour)}, nil
	})
	return &tokensource.Keyed[int]{
		Key:     func(ctx context.Context) (int, error) { return ctx.Value(tenantKey{}).(int), nil },
		New:     func(int) *tokensource.Cache { return &tokensource.Cache{Source: source} },
		MaxKeys: max,
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestAMillionKeysTakeAtMostOneKiBEach(t *testing.T) {
	n := 1_000_000
	if testing.Short() || raceEnabled {
		n = 50_000
	}
	before := heap()
	k := numberedKeys(n)
	for i := range n {
		if _, err := k.Token(context.WithValue(t.Context(), tenantKey{}, i), nil); err != nil {
			t.Fatal(err)
		}
	}
	each := (heap() - before) / uint64(n)
	t.Logf("%d keys, %d bytes each", n, each)
	if each > 1024 && !raceEnabled {
		t.Errorf("a key takes %d bytes, want at most 1024", each)
	}
	runtime.KeepAlive(k)
}

func TestAKnownKeyCostsNoAllocation(t *testing.T) {
	k := numberedKeys(10)
	ctx := fill(t, k, 1)[0]
	if got := testing.AllocsPerRun(100, func() { k.Token(ctx, nil) }); got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
}

func BenchmarkKeyed(b *testing.B) {
	k := numberedKeys(100_000)
	contexts := fill(b, k, 100_000)
	var next atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := int(next.Add(31_337)); pb.Next(); i += 7919 {
			if _, err := k.Token(contexts[i%len(contexts)], nil); err != nil {
				b.Fatal(err)
			}
		}
	})
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

// Its Source has no other, for it came with an answer.
func TestAGoodTokenFromAnAnswerMakesNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(named(new(atomic.Int32)))
		k.MaxKeys = 2
		a := tenant(t.Context(), "a")
		first, _ := k.Token(a, nil)
		k.Replace(a, first, &Token{AccessToken: "answer", Expiry: time.Now().Add(time.Hour)})
		for i := range 3 {
			k.Token(tenant(t.Context(), fmt.Sprint("stranger-", i)), nil)
		}
		got, err := k.Token(a, nil)
		wantToken(t, got, err, "answer")
	})
}

// The Source has no other than the login's, but can give its own again.
func TestALoginThatItsSourceConfirmedMakesNoRoomAndATokenOfTheSourceDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(func(string) tokensource.Source {
			return tokensource.Func(func(_ context.Context, old *Token) (*Token, error) {
				if old == nil || old.AccessToken == "first" {
					return &Token{AccessToken: "source"}, nil
				}
				return old, nil
			})
		})
		k.MaxKeys = 2
		a, b := tenant(t.Context(), "a"), tenant(t.Context(), "b")
		login, first := &Token{AccessToken: "login"}, &Token{AccessToken: "first"}
		k.Set(a, login)
		k.Token(a, login)
		k.Set(b, first)
		second, _ := k.Token(b, first)
		k.Token(b, second)
		for i := range 3 {
			if _, err := k.Token(tenant(t.Context(), fmt.Sprint("stranger-", i)), nil); err != nil {
				t.Errorf("got %v, want room", err)
			}
		}
		got, err := k.Token(a, nil)
		wantToken(t, got, err, "login")
	})
}

func TestARefreshTokenMakesNoRoomInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := ""
		k := byTenant(func(name string) tokensource.Source {
			return tokensource.Func(func(_ context.Context, old *Token) (*Token, error) {
				if name == "a" && old != nil {
					sent = old.RefreshToken
				}
				return nil, unavailable
			})
		})
		k.MaxKeys = 2
		a := tenant(t.Context(), "a")
		k.Set(a, &Token{RefreshToken: "r"})
		k.Token(a, nil)
		for i := range 3 {
			k.Token(tenant(t.Context(), fmt.Sprint("stranger-", i)), nil)
		}
		sent = ""
		k.Token(a, nil)
		if sent != "r" {
			t.Errorf("sent the refresh token %q, want r", sent)
		}
	})
}

// Its caller has left, and the Source is told all the same.
func TestAKeyWhoseSourceIsYetToBeToldMakesNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(func(string) tokensource.Source {
			return &teller{source: numbered(0, 0), set: func(*Token) error { time.Sleep(10 * time.Second); return nil }}
		})
		k.MaxKeys = 1
		a, b := tenant(t.Context(), "a"), tenant(t.Context(), "b")
		short, cancel := context.WithTimeout(a, time.Second)
		defer cancel()
		go k.Set(a, &Token{AccessToken: "first"})
		synctest.Wait()
		k.Set(short, &Token{AccessToken: "second"})
		time.Sleep(10 * time.Second) // the first is told
		for _, want := range []error{tokensource.ErrKeysFull, nil} {
			if _, err := k.Token(b, nil); err != want {
				t.Errorf("got %v, want %v", err, want)
			}
			time.Sleep(10 * time.Second)
		}
	})
}
