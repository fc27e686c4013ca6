package interop_test

import (
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ory/fosite"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// A process is one of many that share a user's token.
type process struct {
	cache  *tokensource.Cache
	client *http.Client
}

// processes returns n processes that share a Store, one of which has logged in.
func (s *server) processes(t *testing.T, n int, first *tokensource.Token) []process {
	t.Helper()
	store := new(storetest.Memory)
	var all []process
	for range n {
		cache := &tokensource.Cache{Source: &tokensource.Stored{
			Source: &tokensource.RefreshToken{Endpoint: s.public()},
			Store:  store, Key: "peter",
		}}
		all = append(all, process{cache, s.client(cache)})
	}
	if err := all[0].cache.Set(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	return all
}

// callAll calls from each process at once, n times.
func (s *server) callAll(t *testing.T, processes []process, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for _, p := range processes {
		wg.Go(func() { s.callMany(t, p.client, n, 0) })
	}
	wg.Wait()
}

func TestManyProcessesRotateAsOne(t *testing.T) {
	const rounds = 10
	synctest.Test(t, func(t *testing.T) {
		s := newServerInBubble(t, fosite.Config{})
		processes := s.processes(t, 4, s.login(t, s.public()))
		for i := range rounds {
			s.callAll(t, processes, 10)
			s.endCurrent(t, processes[i%len(processes)].cache)
		}
		s.callAll(t, processes, 10)
		if got := s.saw(); got.Requests != rounds || got.Issued != rounds || got.Reused != 0 {
			t.Errorf("got %+v, want %d exchanges, as many rotations, none with a spent refresh token", got, rounds)
		}
	})
}

func TestOneProcessFindsTheFamilyDeadAndOneLoginHealsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServerInBubble(t, fosite.Config{})
		first := s.login(t, s.public())
		processes := s.processes(t, 4, first)
		s.endCurrent(t, processes[1].cache)
		s.callAll(t, processes, 1)
		s.reuse(t, first.RefreshToken)
		s.saw()

		for _, p := range processes {
			if err := s.call(p.client, 0); !errors.Is(err, tokensource.ErrReauthenticate) {
				t.Errorf("family revoked: got error %v, want ErrReauthenticate", err)
			}
		}
		if got := s.saw(); got.Requests != 1 {
			t.Errorf("family revoked: got %+v, want one exchange by all", got)
		}

		if err := processes[2].cache.Set(t.Context(), s.login(t, s.public())); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // the other Caches look into the store again after less
		s.callAll(t, processes, 5)
		if got := s.saw(); got.Requests != 0 {
			t.Errorf("after the login: got %+v, want no exchange", got)
		}
	})
}
