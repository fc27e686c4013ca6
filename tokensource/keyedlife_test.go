package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// A population is an authorization server and the users who log in there: each refresh
// token works once. Each user comes back when the access token has expired. The session of all but each
// tenth has ended at the server then, or one of the next three times.
type population struct {
	t     *testing.T
	keyed *tokensource.Keyed[int]
	turns map[int]*atomic.Int32 // how often a user's refresh token has rotated, of those who live
}

func newPopulation(t *testing.T, most int) *population {
	p := &population{t: t, turns: map[int]*atomic.Int32{}}
	p.keyed = &tokensource.Keyed[int]{
		Key:     func(ctx context.Context) (int, error) { return ctx.Value(tenantKey{}).(int), nil },
		New:     func(user int) *tokensource.Cache { return &tokensource.Cache{Source: p.server(user)} },
		MaxKeys: most,
	}
	return p
}

func (p *population) server(user int) tokensource.Source {
	turn := p.turns[user]
	return tokensource.Func(func(_ context.Context, old *Token) (*Token, error) {
		if turn == nil || old == nil || old.RefreshToken != fmt.Sprint(turn.Load()) {
			return nil, fmt.Errorf("%w: invalid_grant", tokensource.ErrReauthenticate)
		}
		return p.token(turn.Add(1)), nil
	})
}

func (p *population) token(turn int32) *Token {
	return &Token{AccessToken: "a", RefreshToken: fmt.Sprint(turn), Expiry: time.Now().Add(10 * time.Minute)}
}

func (p *population) as(user int) context.Context {
	return context.WithValue(p.t.Context(), tenantKey{}, user)
}

func (p *population) arrives(user int) {
	p.turns[user] = new(atomic.Int32)
	if err := p.keyed.Set(p.as(user), p.token(0)); err != nil {
		p.t.Fatalf("user %d was turned away: %v", user, err)
	}
}

// dies ends the user's session.
func (p *population) dies(user int) {
	p.turns[user].Store(-1)
	delete(p.turns, user)
}

// comesBack expects a token for a user who lives, and none for one who has died.
func (p *population) comesBack(user int) {
	_, err := p.keyed.Token(p.as(user), nil)
	if lives := p.turns[user] != nil; lives && err != nil || !lives && !errors.Is(err, tokensource.ErrReauthenticate) {
		p.t.Fatalf("user %d came back, who lives: %t: %v", user, lives, err)
	}
}

func TestUsersWhoDieMakeRoomForAllOthersAndNoRefreshTokenThatLivesIsLost(t *testing.T) {
	users, most := 100_000, 10_000
	if testing.Short() || raceEnabled {
		users, most = 10_000, 1000
	}
	synctest.Test(t, func(t *testing.T) {
		p := newPopulation(t, most)
		pause := 30 * 24 * time.Hour / time.Duration(users)
		back := int(20*time.Minute/pause) + 1 // so many users later a user comes back
		day, full, largest := users/30, uint64(0), uint64(0)
		for user := range users {
			time.Sleep(pause)
			if user/10 < most-5*back || user%10 != 0 { // leave room for those who are yet to die
				p.arrives(user)
			}
			for times := range 4 {
				if u := user - (times+1)*back; u > 0 && u%10 != 0 && times <= u%4 {
					if times == u%4 {
						p.dies(u)
					}
					p.comesBack(u)
				}
			}
			if user%day == 0 {
				for stays := 0; stays <= user; stays += 10 {
					if p.turns[stays] != nil {
						p.comesBack(stays)
					}
				}
				if largest = max(largest, heap()); user < 2*most {
					full = largest
				}
			}
		}
		for user := range p.turns {
			p.comesBack(user)
		}
		t.Logf("%d users, %d live, %d bytes when the Keyed was full, %d at most", users, len(p.turns), full, largest)
		if largest > full*5/4+1<<20 {
			t.Error("the memory grew by more than a quarter")
		}
	})
}

func TestPeekOfAKeyThatIsAnErrorFindsNothing(t *testing.T) {
	var failure error
	k := &tokensource.Keyed[string]{
		Key: func(context.Context) (string, error) { return "user", failure },
		New: func(string) *tokensource.Cache { return new(tokensource.Cache) },
	}
	k.Set(t.Context(), &Token{AccessToken: "token"})
	if got := k.Peek(t.Context(), nil); got == nil || got.AccessToken != "token" {
		t.Errorf("got %v, want the token", got)
	}
	failure = errors.New("no user")
	if got := k.Peek(t.Context(), nil); got != nil {
		t.Errorf("got %v, want none", got)
	}
}

func TestAPeekIsNoUserForLong(t *testing.T) {
	type user struct{}
	k := &tokensource.Keyed[string]{
		Key:     func(ctx context.Context) (string, error) { return ctx.Value(user{}).(string), nil },
		New:     func(string) *tokensource.Cache { return new(tokensource.Cache) },
		MaxKeys: 1,
	}
	first, second := context.WithValue(t.Context(), user{}, "first"), context.WithValue(t.Context(), user{}, "second")
	k.Forget(first)
	k.Peek(first, nil)
	if err := k.Set(second, &Token{AccessToken: "token"}); err != nil {
		t.Errorf("got %v, want room for another key", err)
	}
}

func TestALoginThatHasDiedMakesRoomThoughItsAccessTokenNeverExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(func(name string) tokensource.Source {
			return tokensource.Func(func(_ context.Context, old *Token) (*Token, error) {
				if old != nil {
					return nil, tokensource.ErrReauthenticate
				}
				return &Token{AccessToken: name, RefreshToken: "refresh-" + name}, nil
			})
		})
		k.MaxKeys = 1
		token, err := k.Token(tenant(t.Context(), "a"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Token(tenant(t.Context(), "b"), nil); !errors.Is(err, tokensource.ErrKeysFull) {
			t.Errorf("while the login lives: got %v, want ErrKeysFull", err)
		}
		if _, err := k.Token(tenant(t.Context(), "a"), token); !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("got %v, want ErrReauthenticate", err)
		}
		time.Sleep(time.Second) // a search that found no room is not made again at once
		if _, err := k.Token(tenant(t.Context(), "b"), nil); err != nil {
			t.Errorf("when it has died: got %v, want a token", err)
		}
	})
}
