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

// Keyed keeps a [Cache] for each tenant or user, found by a key in the request's
// context. If the source of one key is slow or fails, the other keys are not affected.
//
// The number of keys is bounded. A new key takes the place of a Cache that has not been
// used for long. A Cache keeps its place while it is in use, and while dropping it
// would lose something: a refresh token that may work, or the good access token of a
// login. Over a [Stored] a Cache can be dropped, because its token can be loaded again.
// If no place is free, the error is [ErrKeysFull]. A Cache that was dropped has
// forgotten its failures and logouts as well.
//
// Keyed is safe for concurrent use. You must not copy it after its first use.
type Keyed[K comparable] struct {
	// Key returns the key of a request's context, such as the user that an http.Handler
	// put there. The key must determine everything that the Source reads from the
	// context, because requests with the same key get the same token. If Key returns an
	// error, the request fails. Key may be called twice for a request.
	//
	// A refresh may go on after the request that began it, with the values of its
	// context. The values that Key has read are kept. Some frameworks use one context
	// for request after request, such as gin.Context and fasthttp.RequestCtx: its other
	// values may later be those of another user. Give requests a context that is not
	// reused, such as http.Request.Context.
	Key func(context.Context) (K, error)

	// New returns a new Cache for a key, when the key is first used and after its Cache
	// was dropped. Callers with the same key wait for New. New must not use this Keyed
	// with the same key. Inside New, using any Keyed with a key that another caller is
	// making is an error, because the two might wait for each other.
	New func(K) *Cache

	// MaxKeys bounds the number of keys. Zero means 10,000.
	MaxKeys int

	mu        sync.RWMutex // guards what follows
	entries   map[K]*entry[K]
	making    map[K]chan struct{} // closed when New has returned
	ring      []*entry[K]         // the entries in a fixed order
	hand      int                 // where in ring the search for a free place continues
	fullUntil time.Time           // until then a search would fail again
}

// An entry is the Cache of a key.
type entry[K comparable] struct {
	key   K
	cache *Cache
	users atomic.Int32 // callers inside cache
	used  atomic.Bool  // since hand has passed
}

// ErrKeysFull says that a [Keyed] has MaxKeys keys and can drop none of them.
var ErrKeysFull = errors.New("tokensource: the Keyed is full, and each key is in use or has a login")

var (
	errNested   = errors.New("tokensource: Keyed.New: it uses a Keyed with a key whose Cache is being made")
	errOtherKey = errors.New("tokensource: Keyed.Key: it has returned two keys for one context")
)

// fullPause is the time between two searches for a free place.
const fullPause = time.Second

// Token asks the Cache of ctx's key for a token. Its errors are those of Key,
// [ErrKeysFull], and those of [Cache.Token].
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

// Peek returns the result of [Cache.Peek] for ctx's key. For a key without a Cache it
// returns nil, and makes no Cache.
func (k *Keyed[K]) Peek(ctx context.Context, old *Token) *Token {
	key, err := k.key(ctx)
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

// Set passes the token to the Cache of ctx's key, see [Cache.Set].
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

// with calls fn with the entry of ctx's key, which keeps its place until fn returns.
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
	if key != key { // a NaN: no map would find it again
		return key, errors.New("tokensource: Keyed.Key: the key does not equal itself")
	}
	return key, nil
}

// find returns the entry of a key and counts the caller among its users. It returns nil
// if there is none.
func (k *Keyed[K]) find(key K) *entry[K] {
	k.mu.RLock()
	defer k.mu.RUnlock()
	e := k.entries[key]
	if e == nil {
		return nil
	}
	e.users.Add(1)
	if !e.used.Load() { // usually it is set, which saves a write
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

// claim returns the entry of a key, or else a channel that is closed once the entry was
// made. Result mine reports whether the caller must make it.
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

// create makes the entry of a key and counts the caller among its users. It calls New
// without the lock, so that no other key waits for it.
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

// created ends the wait of the callers with the same key, whatever the result.
func (k *Keyed[K]) created(key K, made chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.making, key)
	close(made)
}

// put adds e if a place is free.
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

// full reports whether a search for a free place failed a moment ago.
func (k *Keyed[K]) full() bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return time.Now().Before(k.fullUntil)
}

// room returns the place in ring for a new entry: at its end, or of an entry that can
// be dropped. It skips entries that were used since the last pass, so that a second
// round finds them; k.mu is held.
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

func (k *Keyed[K]) maxKeys() int { return cmp.Or(max(0, k.MaxKeys), 10_000) }

// Format writes the type of the keys for every verb. It shows no secret and reads
// nothing that changes concurrently.
func (k *Keyed[K]) Format(s fmt.State, verb rune) {
	fmt.Fprintf(s, "caches by %v", reflect.TypeFor[K]())
}
