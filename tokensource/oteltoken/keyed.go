package oteltoken

import (
	"context"
	"runtime"
	"sync"
	"weak"

	"github.com/tokentripper/tokentripper/tokensource"
)

// A KeyedSource is a Keyed that links the spans of its callers to the refreshes that they
// waited for. Make it with [Keyed].
type KeyedSource[K comparable] struct {
	*tokensource.Keyed[K]
	sources *sources[K]
}

// Keyed records the refreshes of all Caches of a Keyed, as [Recorder.Source] does those
// of one Cache. It changes New of the Keyed, so call it once, before the Keyed is in use.
func Keyed[K comparable](r *Recorder, keyed *tokensource.Keyed[K]) *KeyedSource[K] {
	all := &sources[K]{known: make(map[K]weak.Pointer[Source])}
	if before := keyed.New; before != nil {
		keyed.New = func(key K) *tokensource.Cache {
			cache := before(key)
			if cache != nil {
				all.add(key, r.Source(cache))
			}
			return cache
		}
	}
	return &KeyedSource[K]{keyed, all}
}

// Token returns what the Keyed's Token returns. In a span that is recorded, it calls Key
// once more.
func (s *KeyedSource[K]) Token(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
	if s.Key == nil || !records(ctx) {
		return s.Keyed.Token(ctx, old)
	}
	key, err := s.Key(ctx)
	if err != nil {
		return s.Keyed.Token(ctx, old) // its error tells of Key
	}
	return linked(ctx, s.Keyed.Token, old, func() *Source { return s.sources.of(key) })
}

// sources are those of the Caches that a Keyed has. A Cache that the Keyed drops takes
// its Source along.
type sources[K comparable] struct {
	mu    sync.RWMutex // guards known
	known map[K]weak.Pointer[Source]
}

// of returns the source of a key, or nil.
func (s *sources[K]) of(key K) *Source {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.known[key].Value()
}

func (s *sources[K]) add(key K, source *Source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := weak.Make(source)
	s.known[key] = w
	runtime.AddCleanup(source, func(w weak.Pointer[Source]) { s.drop(key, w) }, w)
}

// drop forgets a source, unless the key has another one.
func (s *sources[K]) drop(key K, w weak.Pointer[Source]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[key] == w {
		delete(s.known, key)
	}
}
