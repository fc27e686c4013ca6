package tokensource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
)

// Keyed keeps a [Cache] for each tenant or user, found by a key in the
// request's context. A slow or failing one delays no other.
//
// The number of keys is bounded. For a new one, a Cache that has not been used
// for long makes room, but not one in use, and not one with which something would be lost:
// a refresh token that may work, or the good access token of a login. Over a [Stored] a Cache
// can be dropped and its token found again. If there is no
// room, the error is [ErrKeysFull]. A Cache that made room has forgotten failures
// and logouts, too.
//
// Keyed is safe for concurrent use, and must not be copied after its first use.
type Keyed[K comparable] struct {
	// Key finds the key in the context of a request, such as the user whom an
	// http.Handler has put there. It must fix everything that the Source reads
	// from the context: requests with the same key get the same token. An error
	// fails the request. Key may be called twice for a request.
	//
	// A refresh may go on after the request that began it, with the values of its context.
	// Those that Key has read are kept. A context that a framework uses again for the next
	// request, as gin.Context and fasthttp.RequestCtx, may answer for all others with another
	// user's: give requests a context that stays, such as http.Request.Context.
	Key func(context.Context) (K, error)

	// New returns a new Cache for a key that is used for the first time, or
	// again after it made room. Callers with the same key wait for it. It must not use
	// this Keyed for the same key. To use a Keyed for any key that another caller is making is an
	// error in New, too, because the two might wait for each other.
	New func(K) *Cache

	// MaxKeys bounds the keys. Zero means 10,000.
	MaxKeys int

	mu        sync.RWMutex // guards what follows
	entries   map[K]*entry[K]
	making    map[K]chan struct{} // closed when New has returned
	ring      []*entry[K]         // the same, in a fixed order
	hand      int                 // where in ring the search for room goes on
	fullUntil time.Time           // until then there is no point in searching again
}

// An entry is the Cache of a key.
type entry[K comparable] struct {
	key   K
	cache *Cache
	users atomic.Int32 // callers inside of cache
	used  atomic.Bool  // since hand passed by
}

// ErrKeysFull says that a [Keyed] has MaxKeys keys, and can drop none of them.
var ErrKeysFull = errors.New("tokensource: no key can make room for another")

var (
	errNested   = errors.New("tokensource: Keyed.New: it uses its Keyed for a key that is being made")
	errOtherKey = errors.New("tokensource: Keyed.Key: it has returned two keys for one context")
)

// fullPause is how long a Keyed without room is not searched again.
const fullPause = time.Second

// Token asks the Cache of ctx's key. Its errors are those of Key, [ErrKeysFull],
// and those of [Cache.Token].
func (k *Keyed[K]) Token(ctx context.Context, old *Token) (token *Token, err error) {
	err = k.with(ctx, func(e *entry[K]) error {
		if token = e.cache.atOnce(old); token != nil {
			return nil
		}
		token, err = k.refresh(ctx, e, old)
		return err
	})
	return token, err
}

// refresh asks the Cache of e with a context that may outlive the request.
func (k *Keyed[K]) refresh(ctx context.Context, e *entry[K], old *Token) (*Token, error) {
	b := &bound{Context: ctx}
	if key, err := k.key(b); err != nil || key != e.key {
		return nil, cmp.Or(err, errOtherKey)
	}
	return e.cache.Token(b, old)
}

// Peek returns what [Cache.Peek] of ctx's key does. A key without a Cache has no
// token, and gets no Cache by this.
func (k *Keyed[K]) Peek(ctx context.Context, old *Token) *Token {
	if k.Key == nil {
		return nil
	}
	key, err := k.Key(ctx)
	if err != nil {
		return nil
	}
	e := k.find(key)
	if e == nil {
		return nil
	}
	defer e.users.Add(-1)
	return e.cache.Peek(ctx, old)
}

// Set hands the token to the Cache of ctx's key, see [Cache.Set].
func (k *Keyed[K]) Set(ctx context.Context, token *Token) error {
	return k.with(ctx, func(e *entry[K]) error { return e.cache.Set(ctx, token) })
}

// Replace replaces the token in the Cache of ctx's key, see [Cache.Replace].
func (k *Keyed[K]) Replace(ctx context.Context, old, next *Token) error {
	return k.with(ctx, func(e *entry[K]) error { return e.cache.Replace(ctx, old, next) })
}

// Forget drops the token from the Cache of ctx's key, see [Cache.Forget].
func (k *Keyed[K]) Forget(ctx context.Context) error {
	return k.with(ctx, func(e *entry[K]) error { return e.cache.Forget(ctx) })
}

// with calls fn with the entry of ctx's key, which stays as long.
func (k *Keyed[K]) with(ctx context.Context, fn func(*entry[K]) error) error {
	key, err := k.key(ctx)
	if err != nil {
		return err
	}
	e := k.find(key)
	if e == nil {
		if e, err = k.add(ctx, key); err != nil {
			return err
		}
	}
	defer e.users.Add(-1)
	return fn(e)
}

func (k *Keyed[K]) key(ctx context.Context) (key K, err error) {
	if k.Key == nil || k.New == nil {
		return key, errors.New("tokensource: Keyed.Key or Keyed.New is nil")
	}
	if key, err = k.Key(ctx); err != nil {
		return key, fmt.Errorf("tokensource: Keyed.Key: %w", sound(err))
	}
	if key != key { // a NaN: no map finds it again
		return key, errors.New("tokensource: Keyed.Key: the key does not equal itself")
	}
	return key, nil
}

// find returns the entry of a key with the caller among its users, or nil.
func (k *Keyed[K]) find(key K) *entry[K] {
	k.mu.RLock()
	defer k.mu.RUnlock()
	e := k.entries[key]
	if e == nil {
		return nil
	}
	e.users.Add(1)
	if !e.used.Load() { // most find it set, and need not write
		e.used.Store(true)
	}
	return e
}

// add is find for a key that may have no entry yet.
func (k *Keyed[K]) add(ctx context.Context, key K) (*entry[K], error) {
	for {
		e, made, mine := k.claim(key)
		switch {
		case e != nil:
			return e, nil
		case mine:
			return k.create(key, made)
		case insideNew():
			return nil, errNested
		}
		select {
		case <-made:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// claim returns the entry of a key, or else a channel that will be closed when it
// has been made; mine says that it is the caller who makes it.
func (k *Keyed[K]) claim(key K) (e *entry[K], made chan struct{}, mine bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.entries[key]; e != nil {
		e.users.Add(1)
		return e, nil, false
	}
	if made, ok := k.making[key]; ok {
		return nil, made, false
	}
	if k.entries == nil {
		k.entries, k.making = make(map[K]*entry[K]), make(map[K]chan struct{})
	}
	made = make(chan struct{})
	k.making[key] = made
	return nil, made, true
}

// create makes the entry of a key, with the caller among its users. New is called
// without the lock: no other key waits for it.
func (k *Keyed[K]) create(key K, made chan struct{}) (*entry[K], error) {
	defer k.created(key, made)
	if k.full() {
		return nil, ErrKeysFull
	}
	cache := k.New(key)
	if cache == nil {
		return nil, errors.New("tokensource: Keyed.New returned nil")
	}
	e := &entry[K]{key: key, cache: cache}
	e.users.Add(1)
	if err := k.put(e); err != nil {
		return nil, err
	}
	return e, nil
}

// created lets those go on who wait for a key, whatever became of it.
func (k *Keyed[K]) created(key K, made chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.making, key)
	close(made)
}

// put adds e where there is room.
func (k *Keyed[K]) put(e *entry[K]) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	slot, err := k.room()
	switch {
	case err != nil:
		return err
	case slot == len(k.ring):
		k.ring = append(k.ring, e)
	default:
		delete(k.entries, k.ring[slot].key)
		k.ring[slot] = e
	}
	k.entries[e.key] = e
	return nil
}

// full reports whether a search for room was in vain a moment ago.
func (k *Keyed[K]) full() bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return time.Now().Before(k.fullUntil)
}

// room returns the place in ring for a new entry: at its end, or where an entry
// can be dropped. It passes over those used since it last came by, so that a
// second round finds them; k.mu is held.
func (k *Keyed[K]) room() (int, error) {
	n := len(k.ring)
	if n < k.maxKeys() {
		return n, nil
	}
	for range 2 * n {
		slot := k.hand
		k.hand = (k.hand + 1) % n
		e := k.ring[slot]
		if !e.used.Swap(false) && e.users.Load() == 0 && e.cache.expendable() {
			return slot, nil
		}
	}
	k.fullUntil = time.Now().Add(fullPause)
	return 0, ErrKeysFull
}

func (k *Keyed[K]) maxKeys() int {
	if k.MaxKeys > 0 {
		return k.MaxKeys
	}
	return 10_000
}

// Format writes the type of the keys, whatever the verb: no secret, and nothing
// that changes meanwhile.
func (k *Keyed[K]) Format(s fmt.State, verb rune) {
	fmt.Fprintf(s, "caches by %v", reflect.TypeFor[K]())
}
