package sim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// A losing world is one of processes whose store is emptied, or put back to an older
// state. The issuer ends the login when it sees a spent refresh token, so no process may
// spend one that is not the newest.
type losing struct {
	*world
	end    time.Time
	life   time.Duration
	newest int  // refresh token, and access token
	dead   bool // a spent one came
	since  time.Time
	served map[int]time.Time // when each process last had a token
}

// heard is the time after which all processes know what was saved: a look every 30 s at
// most, a request every 3 s, and the store's answer.
const heard = 35 * time.Second

// TestAStoreThatLosesRecordsLogsNobodyOut plays a tenth as many seeds as TestSimulation.
func TestAStoreThatLosesRecordsLogsNobodyOut(t *testing.T) {
	for n := range 20 {
		if *only != 0 && !t.Failed() {
			playLosing(t, *only, n)
		}
	}
	for n := range *seeds / 10 {
		if *only == 0 && !t.Failed() {
			playLosing(t, *from+uint64(n), 0)
		}
	}
}

func playLosing(t *testing.T, seed uint64, n int) {
	synctest.Test(t, func(t *testing.T) {
		l := newLosing(seed)
		l.run()
		if len(l.bad) > 0 {
			t.Errorf("seed %d, at the %d. time: %s", seed, n+1, l.bad[0])
			t.Log("\n" + l.text())
		}
	})
}

func newLosing(seed uint64) *losing {
	w := &world{plan: &plan{processes: 8, latency: time.Second}, seed: seed, began: time.Now()}
	l := &losing{world: w, end: w.began.Add(15 * time.Minute), served: map[int]time.Time{}}
	d := w.draw("losing")
	l.life = 20*time.Second + d.upTo(10*time.Minute)
	if d.chance(0.1) {
		w.plan.processes = 64
	}
	for range w.plan.processes {
		w.shared.skews = append(w.shared.skews, d.upTo(farthest))
	}
	w.store = &store{w: w}
	for n := range w.plan.processes {
		p := &process{w: w, n: n}
		p.cache = &tokensource.Cache{Source: &tokensource.Stored{Source: l, Store: storeOf{w.store, p}, Key: "sim"}}
		w.processes = append(w.processes, p)
	}
	return l
}

func (l *losing) run() {
	if err := l.processes[0].cache.Set(context.Background(), l.token()); err != nil {
		l.broken("Set failed: %v", err)
	}
	var wg sync.WaitGroup
	for _, p := range l.processes {
		wg.Go(func() { l.client(p) })
	}
	wg.Go(l.lose)
	wg.Wait()
	time.Sleep(time.Minute) // what goes on by itself
}

// client sends requests. Some are refused.
func (l *losing) client(p *process) {
	d := l.draw("client", p.n)
	for time.Now().Before(l.end) {
		time.Sleep(d.upTo(3 * time.Second))
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		token, err := p.cache.Token(ctx, nil)
		if err == nil && d.chance(0.02/float64(len(l.processes))) {
			_, err = p.cache.Token(ctx, token)
		}
		cancel()
		l.saw(p, err)
	}
}

// saw checks what a request has got.
func (l *losing) saw(p *process, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	switch {
	case err == nil:
		l.served[p.n] = now
	case errors.Is(err, tokensource.ErrReauthenticate):
		l.broken("process %d: %v", p.n, err)
	case now.Sub(l.since) > 80*time.Second: // the doubt, and a quarter of it
		l.broken("process %d: no token %v after the last loss: %v", p.n, now.Sub(l.since), err)
	}
}

// Token rotates the refresh token.
func (l *losing) Token(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if old == nil || old.RefreshToken != fmt.Sprint("refresh-", l.newest) {
		l.dead = true
	}
	if l.dead {
		l.note("a refresh token is spent again: %v", old)
		return nil, fmt.Errorf("%w: it was spent", tokensource.ErrReauthenticate)
	}
	l.newest++
	return l.token(), nil
}

func (l *losing) token() *tokensource.Token {
	return &tokensource.Token{
		AccessToken: fmt.Sprint("access-", l.newest), RefreshToken: fmt.Sprint("refresh-", l.newest), Expiry: time.Now().Add(l.life),
	}
}

// lose empties the store now and then, or puts it back where that is promised to do no harm: all
// processes know what is newer than what it is put back to.
func (l *losing) lose() {
	d := l.draw("lose")
	for {
		time.Sleep(80*time.Second + d.upTo(3*time.Minute))
		if time.Now().Add(2 * time.Minute).After(l.end) {
			return
		}
		l.mu.Lock()
		l.store.value = l.older(len(l.store.versions) - 1 - d.IntN(4))
		l.since = time.Now()
		l.note("the store has %s", l.store.value)
		l.mu.Unlock()
	}
}

// older returns the n. version if all processes have heard of a newer token; l.mu is held.
func (l *losing) older(n int) []byte {
	for _, v := range l.store.versions[max(n, 0):] {
		if n >= 0 && v.at.After(l.since) && time.Since(v.at) > heard && number(v.value) > number(l.store.versions[n].value) {
			return l.store.versions[n].value
		}
	}
	return nil
}

// number returns that of the refresh token in a stored value.
func number(value []byte) (n int) {
	_, after, _ := bytes.Cut(value, []byte("refresh-"))
	fmt.Sscanf(string(after), "%d", &n)
	return n
}
