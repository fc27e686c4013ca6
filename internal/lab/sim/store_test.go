package sim_test

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// A store is what the processes share. Like one on the network it may fail,
// hang, lose its answers, and save late.
type store struct {
	w        *world
	value    []byte
	holder   int // of the lock; zero: nobody
	holders  int
	till     time.Time // when the lock ends by itself
	awayTill time.Time
	draws    int
	excused  bool // a token was not saved before the lock was free: its refresh token may be sent again
	versions []version
}

// A version is a value and when it was saved.
type version struct {
	at    time.Time
	value []byte
}

// storeOf is the store as a process reaches it.
type storeOf struct {
	*store
	p *process
}

var errStore = errors.New("the store's fault")

// faulty reports whether the plan has faults of the store.
func (s *store) faulty() bool {
	f := s.w.fault
	return f.load+f.update+f.save+f.saved+f.late+f.lock+f.hang+s.w.shared.lose > 0 || s.w.has(storeOutage) || s.w.has(cutOff)
}

// next draws what becomes of an operation.
func (s storeOf) next() (d *dice, away bool, f faults) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.draws++
	if !s.w.calm {
		f = s.w.fault
	}
	return s.w.draw("store", s.draws), time.Now().Before(maxTime(s.awayTill, s.p.cutTill)), f
}

func (s storeOf) Load(ctx context.Context, key string) ([]byte, error) {
	d, away, f := s.next()
	if d.chance(f.hang) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err := pause(ctx, d.upTo(s.w.way()/20)); err != nil {
		return nil, err
	}
	if away || d.chance(f.load) {
		return nil, errStore
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.p.reads(time.Now())
	return s.in(s.value), nil
}

func (s storeOf) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	d, away, f := s.next()
	if d.chance(f.hang) {
		<-ctx.Done()
		return ctx.Err()
	}
	if err := pause(ctx, d.upTo(s.w.way()/20)); err != nil {
		return err
	}
	if away || d.chance(f.update) {
		return errStore
	}
	h, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	if d.chance(f.lock) { // the answer is lost
		time.AfterFunc(d.upTo(8*time.Second), h.release)
		return errStore
	}
	defer h.release()
	s.w.mu.Lock()
	s.p.reads(time.Now())
	s.w.mu.Unlock()
	return fn(s.in(h.known[0]), func(data []byte) error { return h.save(ctx, s.out(data)) })
}

// A holding is a lock that somebody has.
type holding struct {
	storeOf
	n       int
	known   [][]byte  // what the value may be if nobody else has changed it
	unsaved time.Time // since when; zero: all is saved
	lost    bool      // the lock
	end     time.Time // of the context: what comes after another save has what is left
}

func (s storeOf) acquire(ctx context.Context) (*holding, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if s.holder != 0 && time.Now().Before(s.till) {
		return nil, tokensource.ErrLocked
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		s.w.broken("an Update without a deadline")
	}
	s.holders++
	s.holder, s.till = s.holders, deadline.Add(2*time.Second)
	return &holding{storeOf: s, n: s.holder, known: [][]byte{bytes.Clone(s.value)}, end: deadline}, nil
}

func (h *holding) release() {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if h.holder == h.n {
		h.holder = 0
	}
	if h.unsaved.IsZero() {
		return
	}
	h.w.note("process %d: a token was not saved", h.p.n)
	h.excused = true
	if tried := time.Since(h.unsaved); tried < 13*time.Second && time.Now().Before(h.end) && !h.lost && h.w.fault.stubborn == 0 {
		h.w.broken("process %d gave up saving after %v", h.p.n, tried)
	}
}

func (h *holding) save(ctx context.Context, data []byte) (err error) {
	d, away, f := h.next()
	if h.unsaved.IsZero() {
		h.unsaved = time.Now()
	}
	defer func() {
		h.lost = h.lost || errors.Is(err, tokensource.ErrLocked)
		if err == nil {
			h.unsaved = time.Time{}
		}
	}()
	h.known = append(h.known, data)
	if err := pause(ctx, d.upTo(h.w.way()/20)); err != nil {
		return err
	}
	switch {
	case away || d.chance(f.save):
		return errStore
	case d.chance(f.hang):
		pause(ctx, 5*time.Second)
		return errStore
	case d.chance(f.late):
		time.AfterFunc(d.upTo(9*time.Second), func() { h.apply(data) })
		pause(ctx, d.upTo(5*time.Second))
		return errStore
	case h.loses() && d.chance(h.w.shared.lose):
		h.lose()
		return tokensource.ErrLocked
	}
	err = h.apply(data)
	if err == nil && d.chance(f.saved) { // the answer is lost
		return errStore
	}
	return err
}

// loses reports whether locks may be lost.
func (h *holding) loses() bool {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	return h.w.shared.lose > 0 && !h.w.calm
}

// lose ends the lock before its time.
func (h *holding) lose() {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.w.note("process %d: has lost the lock", h.p.n)
	if h.holder == h.n {
		h.holder = 0
	}
	h.excused = true
}

// apply replaces the value if the lock is held still and nobody else has changed it.
func (h *holding) apply(data []byte) error {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if h.holder != h.n || !time.Now().Before(h.till) {
		return tokensource.ErrLocked
	}
	for _, known := range h.known {
		if bytes.Equal(known, h.value) {
			h.value = data
			h.versions = append(h.versions, version{time.Now(), data})
			h.w.note("process %d: saved %s", h.p.n, data)
			return nil
		}
	}
	return tokensource.ErrLocked
}
