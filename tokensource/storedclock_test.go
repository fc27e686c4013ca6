package tokensource_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// A town is a store that loses locks and answers, and the processes that share it.
type town struct {
	mu     sync.Mutex
	value  []byte
	holder int // of the lock; zero: nobody
	locks  int
	ops    []*op
	bad    []string
}

// An op is a login or a logout; n is its place in town.ops.
type op struct {
	n          int
	logout     bool
	start, end time.Time // end is zero until it has returned
	err        error
}

func chance(p float64) bool { return rand.Float64() < p }

func nap() { time.Sleep(rand.N(40 * time.Millisecond)) }

// A view is the store as a process reaches it whose clock is ahead. Generations are
// times: so the process sees those of others the less great.
type view struct {
	*town
	ahead time.Duration
	read  bool // the last Load went well
}

// shift adds to the generation of a value.
func shift(value []byte, by time.Duration) []byte {
	var fields map[string]json.RawMessage
	var gen int64
	if json.Unmarshal(value, &fields) != nil || json.Unmarshal(fields["gen"], &gen) != nil {
		return nil
	}
	fields["gen"] = fmt.Append(nil, gen+by.Milliseconds())
	value, _ = json.Marshal(fields)
	return value
}

func (v *view) Load(context.Context, string) ([]byte, error) {
	nap()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.read = !chance(0.1); !v.read {
		return nil, errAway
	}
	return shift(v.value, -v.ahead), nil
}

func (v *view) Update(_ context.Context, _ string, fn func([]byte, func([]byte) error) error) error {
	nap()
	v.mu.Lock()
	if v.holder != 0 && !chance(0.05) || chance(0.05) { // else the lock has run out
		v.mu.Unlock()
		return tokensource.ErrLocked
	}
	v.locks++
	lock := v.locks
	v.holder = lock
	value := shift(v.value, -v.ahead)
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.holder == lock {
			v.holder = 0
		}
	}()
	nap()
	return fn(value, func(data []byte) error { return v.save(lock, data) })
}

func (v *view) save(lock int, data []byte) error {
	nap()
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.holder != lock:
		return tokensource.ErrLocked
	case chance(0.1):
		return errAway
	}
	v.value = shift(data, v.ahead)
	if chance(0.1) { // the answer is lost
		return errAway
	}
	return nil
}

// logs logs in or out.
func (w *town) logs(ctx context.Context, p process, logout bool) {
	w.mu.Lock()
	o := &op{n: len(w.ops), logout: logout, start: time.Now()}
	w.ops = append(w.ops, o)
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, rand.N(time.Second))
	defer cancel()
	var err error
	if logout {
		err = p.stored.Forget(ctx)
	} else {
		err = p.stored.Set(ctx, &Token{AccessToken: fmt.Sprint("login-", o.n), RefreshToken: fmt.Sprint(o.n)})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	o.end, o.err = time.Now(), err
}

// asks asks for a token, and checks that none is of a login that ended before another
// began that has returned nil.
func (w *town) asks(ctx context.Context, p process, v *view, old *Token) *Token {
	began := time.Now()
	token, err := p.stored.Token(ctx, old)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !v.read {
		return token
	}
	newer := func(o *op) bool { // no op that has taken effect is certain to be later
		return !slices.ContainsFunc(w.ops, func(x *op) bool {
			return x.err == nil && !x.end.IsZero() && x.end.Before(began) && (o.n < 0 || !o.end.IsZero() && o.end.Before(x.start))
		})
	}
	var n int
	switch {
	case errors.Is(err, tokensource.ErrReauthenticate):
		nobody := op{n: -1, logout: true} // had logged in before all else
		if !slices.ContainsFunc(append(w.ops, &nobody), func(o *op) bool { return o.logout && newer(o) }) {
			w.bad = append(w.bad, fmt.Sprintf("a logout of long ago: %v", err))
		}
	case err == nil:
		fmt.Sscanf(token.RefreshToken, "%d", &n)
		if !newer(w.ops[n]) {
			w.bad = append(w.bad, fmt.Sprintf("login %d is used after a later one", n))
		}
	}
	return token
}

// live is what a process does.
func (w *town) live(ctx context.Context, p process, v *view) {
	var old *Token
	for range 12 {
		nap()
		switch {
		case chance(0.3):
			w.logs(ctx, p, chance(0.3))
		case chance(0.5):
			old = w.asks(ctx, p, v, nil)
		default:
			old = w.asks(ctx, p, v, old)
		}
	}
}

func TestNoOlderLoginIsUsedOnceALaterOneHasReturnedNil(t *testing.T) {
	rounds := 300
	if testing.Short() || raceEnabled {
		rounds = 50
	}
	for round := range rounds {
		w := new(town)
		synctest.Test(t, func(t *testing.T) {
			var all sync.WaitGroup
			for i := range 6 {
				v := &view{town: w, ahead: rand.N(5 * time.Second)}
				p := newProcess(v, ofLogin)
				if i == 0 {
					w.logs(t.Context(), p, false)
				}
				all.Go(func() { w.live(t.Context(), p, v) })
			}
			all.Wait()
			time.Sleep(time.Minute) // what is saved later
		})
		if len(w.bad) > 0 {
			t.Fatalf("round %d: %v", round, w.bad)
		}
	}
}

// An aheadStore is a store as a process sees it whose wall clock is behind: the times of day in it are
// later. It begins when the clock is set back.
type aheadStore struct {
	brokenStore
	behind time.Duration
}

func (s *aheadStore) Load(ctx context.Context, key string) ([]byte, error) {
	value, err := s.brokenStore.Load(ctx, key)
	return s.later(value), err
}

func (s *aheadStore) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	return s.brokenStore.Update(ctx, key, func(value []byte, save func([]byte) error) error { return fn(s.later(value), save) })
}

func (s *aheadStore) later(value []byte) []byte {
	var v struct {
		V     int
		Gen   int64
		Login string
		Token json.RawMessage
	}
	if json.Unmarshal(value, &v) != nil {
		return value
	}
	token, _ := tokensource.Unmarshal(v.Token)
	token.Expiry = token.Expiry.Add(s.behind)
	v.Token, _ = tokensource.Marshal(token)
	value, _ = json.Marshal(v)
	return value
}

func TestAWallClockThatIsSetBackKeepsNoStoredTokenAlive(t *testing.T) {
	for _, away := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			store, server := new(aheadStore), &family{life: time.Hour}
			newProcess(store, server).Token(t.Context(), nil)
			p := newProcess(store, server)
			got, err := p.Token(t.Context(), nil)
			wantToken(t, got, err, "access-1")
			store.behind = time.Hour
			time.Sleep(time.Hour)
			if got, _ := newProcess(store, server).stored.Token(t.Context(), nil); got == nil || got.AccessToken != "access-1" {
				t.Fatalf("a Stored alone: got %v, want access-1, by the wall clock", got)
			}
			store.load.Store(away)
			got, err = p.Token(t.Context(), nil)
			if away && !isStoreError(err, "load") || !away && (err != nil || got.AccessToken != "access-2") {
				t.Errorf("the store is away: %t: got %v and %v, want the expired token no more", away, got, err)
			}
		})
	}
}
