package sim_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// shared is what becomes of several processes with one store.
type shared struct {
	skews []time.Duration // by how much each process' clock is ahead
	lose  float64         // the probability that a save finds the lock lost
}

// farthest is by how much two clocks differ at most.
const farthest = 5 * time.Second

// drawShared draws from a stream of its own, see drawServers.
func (p *plan) drawShared(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 5))
	if p.processes == 1 || r.Float64() < 0.3 {
		return
	}
	if r.Float64() < 0.01 { // a crowd
		p.processes, p.clients, p.requests = 5+r.IntN(60), 1, min(p.requests, 4)
	}
	for range p.processes {
		p.shared.skews = append(p.shared.skews, time.Duration(r.Int64N(int64(farthest))))
	}
	if r.IntN(3) == 0 {
		p.shared.lose = 0.3 * r.Float64()
	}
	for range r.IntN(3) {
		p.rivals(r)
	}
	slices.SortStableFunc(p.events, func(a, b event) int { return int(a.at - b.at) })
}

// rivals adds logins and logouts in several processes at about the same time, while
// one of them is cut off from the store.
func (p *plan) rivals(r *rand.Rand) {
	upTo := func(most time.Duration) time.Duration { return 1 + time.Duration(r.Int64N(int64(most))) }
	at, n := upTo(p.span), r.IntN(p.processes)
	p.events = append(p.events, event{at: at, what: cutOff, n: n, long: upTo(20 * time.Second)})
	for range 1 + r.IntN(3) {
		at += upTo(3 * time.Second)
		what := login
		if r.IntN(3) == 0 {
			what = logout
		}
		p.events = append(p.events, event{at: at, what: what, n: n, apart: true})
		n = r.IntN(p.processes)
	}
}

// skew is by how much the clock of a process is ahead.
func (s *shared) skew(n int) time.Duration {
	if s.skews == nil {
		return 0
	}
	return s.skews[n]
}

// shifted returns a stored value as it is for a clock that is ahead by so much. Of the
// clock a Stored takes nothing but a login's generation and what a token's times are compared
// with; so a shift of all generations by which a process reads and writes is a skew of its clock.
func shifted(value []byte, by time.Duration) []byte {
	before, after, found := bytes.Cut(value, []byte(`"gen":`))
	if !found || by == 0 {
		return bytes.Clone(value)
	}
	end := bytes.IndexByte(after, ',')
	generation, err := strconv.ParseInt(string(after[:end]), 10, 64)
	if err != nil {
		panic(fmt.Sprint("sim: generation: ", err))
	}
	rest := after[end:]
	if before, lost, found := bytes.Cut(rest, []byte(`"lost":`)); found {
		at, err := strconv.ParseInt(string(bytes.TrimRight(lost, "}")), 10, 64)
		if err != nil {
			panic(fmt.Sprint("sim: lost: ", err))
		}
		rest = fmt.Appendf(nil, `%s"lost":%d}`, before, at+by.Milliseconds())
	}
	return fmt.Appendf(nil, `%s"gen":%d%s`, before, generation+by.Milliseconds(), rest)
}

// in is what the process reads, out what it writes.
func (s storeOf) in(value []byte) []byte  { return shifted(value, -s.w.shared.skew(s.p.n)) }
func (s storeOf) out(value []byte) []byte { return shifted(value, s.w.shared.skew(s.p.n)) }

// reads notes that the process has what the store has had since then; w.mu is held.
func (p *process) reads(since time.Time) { p.read = maxTime(p.read, since) }

// replaced returns a login or logout that has ended well before the process last read the store, and that
// began when the family's own login was over; w.mu is held.
func (w *world) replaced(f *family, read time.Time) *op {
	over := time.Time{}
	for _, o := range w.ops {
		switch {
		case o.login && o.family == f.n:
			over = o.end
		case !over.IsZero() && over.Before(o.start) && o.err == nil && !o.end.IsZero() && o.end.Before(read):
			return o
		}
	}
	return nil
}

// goesOnWith checks that a process does not go on with a login after it could know of
// another; w.mu is held.
func (p *process) goesOnWith(f *family, read time.Time, what string) {
	if o := p.w.replaced(f, read); o != nil {
		p.w.broken("process %d: %s of login %d, though it has read the store since the login or logout of %v", p.n, what, f.n, o.end.Sub(p.w.began))
	}
}

// A watched Stored is one whose tokens are looked at.
type watched struct {
	*tokensource.Stored
	p *process
}

func (s watched) Token(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
	w := s.p.w
	w.mu.Lock()
	read, began := s.p.read, time.Now()
	w.mu.Unlock()
	token, err := s.Stored.Token(ctx, old)
	w.mu.Lock()
	defer w.mu.Unlock()
	s.p.rests(began, err, err == nil && old != nil && token.AccessToken == old.AccessToken)
	if err == nil {
		if a := w.issuer.access[token.AccessToken]; a != nil {
			s.p.goesOnWith(a.family, read, "a token")
		}
	}
	return token, err
}

// rests notes what a call of a Stored that began then has brought. A token that it has confirmed is not
// asked about again for a quarter of the time in which nothing new came; w.mu is held.
func (p *process) rests(began time.Time, err error, same bool) {
	switch {
	case err == nil && !same:
		p.row = time.Time{}
		return
	case p.row.IsZero():
		p.row = began
	}
	if err == nil {
		p.settled = time.Now().Add(max(300*time.Millisecond, time.Since(p.row)/4))
	}
}
