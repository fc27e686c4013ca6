package tokensource

import (
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
// for long makes room, but not one in use, and not one whose refresh token would be lost
// with it: only a [Stored] token can be dropped and found again. If there is no
// room, the error is [ErrKeysFull]. A Cache that made room has forgotten failures
// and logouts, too.
//
// Keyed is safe for concurrent use, and must not be copied after its first use.
type Keyed[K comparable] struct {
	// Key finds the key in the context of a request, such as the user whom an
	// http.Handler has put there. It must fix everything that the Source reads
	// from the context: whoever has the same key gets the same token. An error
	// fails the request.
	Key func(context.Context) (K, error)

	// New returns a new Cache for a key that is used for the first time, or
	// again after it made room. It must return at once: other keys wait.
	New func(K) *Cache

	// MaxKeys bounds the keys. Zero means 10,000.
	MaxKeys int

	mu        sync.RWMutex // guards what follows
	entries   map[K]*entry[K]
	ring      []*entry[K] // the same, in a fixed order
	hand      int         // where in ring the search for room goes on
	fullUntil time.Time   // until then there is no point in searching again
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

// fullPause is how long a Keyed without room is not searched again.
const fullPause = time.Second

// Token asks the Cache of ctx's key. Its errors are those of Key, [ErrKeysFull],
// and those of [Cache.Token].
func (k *Keyed[K]) Token(ctx context.Context, old *Token) (token *Token, err error) {
	err = k.with(ctx, func(c *Cache) (err error) {
		token, err = c.Token(ctx, old)
		return err
	})
	return token, err
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
	return k.with(ctx, func(c *Cache) error { return c.Set(ctx, token) })
}

// Replace replaces the token in the Cache of ctx's key, see [Cache.Replace].
func (k *Keyed[K]) Replace(ctx context.Context, old, next *Token) error {
	return k.with(ctx, func(c *Cache) error { return c.Replace(ctx, old, next) })
}

// Forget drops the token from the Cache of ctx's key, see [Cache.Forget].
func (k *Keyed[K]) Forget(ctx context.Context) error {
	return k.with(ctx, func(c *Cache) error { return c.Forget(ctx) })
}

// with calls fn with the Cache of ctx's key, which stays as long.
func (k *Keyed[K]) with(ctx context.Context, fn func(*Cache) error) error {
	if k.Key == nil || k.New == nil {
		return errors.New("tokensource: Keyed.Key or Keyed.New is nil")
	}
	key, err := k.Key(ctx)
	if err != nil {
		return fmt.Errorf("tokensource: Keyed.Key: %w", err)
	}
	if key != key { // a NaN: no map finds it again
		return errors.New("tokensource: Keyed.Key: the key does not equal itself")
	}
	e := k.find(key)
	if e == nil {
		if e, err = k.add(key); err != nil {
			return err
		}
	}
	defer e.users.Add(-1)
	return fn(e.cache)
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
func (k *Keyed[K]) add(key K) (*entry[K], error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.entries[key]; e != nil {
		e.users.Add(1)
		return e, nil
	}
	slot, err := k.room()
	if err != nil {
		return nil, err
	}
	e := &entry[K]{key: key, cache: k.New(key)}
	if e.cache == nil {
		return nil, errors.New("tokensource: Keyed.New returned nil")
	}
	if k.entries == nil {
		k.entries = make(map[K]*entry[K])
	}
	if slot == len(k.ring) {
		k.ring = append(k.ring, e)
	} else {
		delete(k.entries, k.ring[slot].key)
		k.ring[slot] = e
	}
	k.entries[key] = e
	e.users.Add(1)
	return e, nil
}

// room returns the place in ring for a new entry: at its end, or where an entry
// can be dropped. It passes over those used since it last came by, so that a
// second round finds them; k.mu is held.
func (k *Keyed[K]) room() (int, error) {
	n := len(k.ring)
	if n < k.maxKeys() {
		return n, nil
	}
	now := time.Now()
	if now.Before(k.fullUntil) {
		return 0, ErrKeysFull
	}
	for range 2 * n {
		slot := k.hand
		k.hand = (k.hand + 1) % n
		e := k.ring[slot]
		if !e.used.Swap(false) && e.users.Load() == 0 && e.cache.expendable() {
			return slot, nil
		}
	}
	k.fullUntil = now.Add(fullPause)
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
