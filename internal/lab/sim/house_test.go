package sim_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// A house is the Keyed, its users, and the token endpoint and the store of them all.
// The world's mutex guards it.
type house struct {
	w     *world
	keyed *tokensource.Keyed[int]
	store storetest.Memory
	users []*user
	draws int
}

// house plays the users.
func (w *world) house() {
	h := &house{w: w}
	h.keyed = &tokensource.Keyed[int]{
		Key:     func(ctx context.Context) (int, error) { return ctx.Value(userKey{}).(int), nil },
		New:     h.cache,
		MaxKeys: w.users.room,
	}
	w.calm = false
	var wg sync.WaitGroup
	for n := range w.users.n {
		h.users = append(h.users, &user{n: n})
	}
	for _, u := range h.users {
		wg.Go(func() { h.live(u) })
	}
	wg.Wait()
	h.calm()
}

// calm lets nothing fail any more: what is pending is saved, and makes room.
func (h *house) calm() {
	time.Sleep(5 * time.Minute)
	h.w.mu.Lock()
	h.w.note("calm")
	h.w.calm = true
	h.w.mu.Unlock()
	for range 2 {
		for _, u := range h.users {
			time.Sleep(2 * time.Second)
			h.asks(u, context.WithValue(context.Background(), userKey{}, u.n), nil)
		}
	}
	time.Sleep(5 * time.Minute) // for what began early
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	for _, u := range h.users {
		if u.stored != nil && u.stored.Pending() {
			h.w.broken("user %d: in the end something is pending", u.n)
		}
	}
}

// cache is the Keyed's New.
func (h *house) cache(n int) *tokensource.Cache {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.w.note("user %d: a new Cache", n)
	u := h.users[n]
	grant := &tokensource.RefreshToken{Endpoint: tokensource.Endpoint{
		URL: "https://issuer.test/token", ClientID: "sim", Client: &http.Client{Transport: h},
	}}
	if !h.w.users.stored {
		return &tokensource.Cache{Source: tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
			return h.source(u, ctx, old, grant)
		})}
	}
	u.stored = &tokensource.Stored{Source: grant, Store: &shaky{h: h}, Key: fmt.Sprint(n)}
	return &tokensource.Cache{Source: counted{u.stored, h, u}}
}

func (h *house) source(u *user, ctx context.Context, old *tokensource.Token, s tokensource.Source) (*tokensource.Token, error) {
	defer h.enter(u)()
	return s.Token(ctx, old)
}

// enter notes that a call begins, and returns what notes that it is over.
func (h *house) enter(u *user) (leave func()) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	u.calls++
	return func() {
		h.w.mu.Lock()
		defer h.w.mu.Unlock()
		u.calls--
		u.left = time.Now()
	}
}

// live is what a user does.
func (h *house) live(u *user) {
	w := h.w
	d := w.draw("user", u.n)
	for range w.users.visits {
		time.Sleep(d.upTo(w.users.life))
		ctx := &pooled{Context: context.Background()}
		ctx.user.Store(int64(u.n))
		switch {
		case u.login == nil || d.chance(0.05):
			if d.chance(0.9) {
				h.logIn(u, ctx, d)
			}
		case d.chance(0.05):
			h.logOut(u, ctx)
		case d.chance(w.users.dies):
			w.mu.Lock()
			w.note("user %d: the login has ended", u.n)
			u.login.dead = true
			w.mu.Unlock()
		}
		var old *tokensource.Token
		for range 1 + d.IntN(3) {
			short, cancel := context.WithTimeout(ctx, d.upTo(5*time.Second))
			old = h.asks(u, short, map[bool]*tokensource.Token{true: old}[d.chance(0.3)])
			cancel()
		}
		ctx.user.Store(int64(d.IntN(w.users.n)))
	}
}

func (h *house) logIn(u *user, ctx context.Context, d *dice) {
	w := h.w
	s := &session{plain: d.chance(0.2)}
	w.mu.Lock()
	n := len(u.logins)
	u.logins = append(u.logins, s)
	w.mu.Unlock()
	token := &tokensource.Token{RefreshToken: fmt.Sprintf("refresh %d %d 0", u.n, n)}
	if s.plain || d.chance(0.5) {
		s.until = time.Now().Add(w.users.life)
		token.AccessToken, token.Expiry = fmt.Sprintf("access-%d-%d-0", u.n, n), s.until
	}
	if s.plain {
		token.RefreshToken = ""
	}
	defer h.enter(u)()
	err := h.keyed.Set(ctx, token)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note("user %d: login %d %+v: %v", u.n, n, *s, err)
	h.begins(u, s, err)
}

func (h *house) logOut(u *user, ctx context.Context) {
	defer h.enter(u)()
	err := h.keyed.Forget(ctx)
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.w.note("user %d: logout: %v", u.n, err)
	h.begins(u, nil, err)
}

// begins notes a login, or a logout; w.mu is held. It is in effect even though the store is away.
func (h *house) begins(u *user, s *session, err error) {
	if h.full(u, err) {
		return
	}
	u.login, u.doubt = s, err != nil && time.Since(u.began) < 11*time.Second
	u.began = time.Now()
}

// asks asks for a token, and checks what comes.
func (h *house) asks(u *user, ctx context.Context, old *tokensource.Token) *tokensource.Token {
	w := h.w
	defer h.enter(u)()
	token, err := h.keyed.Token(ctx, old)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note("user %d: a token instead of %v: %v %v", u.n, old != nil, token, err)
	s := u.login
	switch {
	case err == nil:
		if !u.doubt && (s == nil || !strings.HasPrefix(token.AccessToken, fmt.Sprintf("access-%d-%d-", u.n, slices.Index(u.logins, s)))) {
			w.broken("user %d, of login %+v: got the token %s", u.n, s, token.AccessToken)
		}
	case ctx.Err() != nil || h.full(u, err) || u.doubt:
	case errors.Is(err, tokensource.ErrReauthenticate):
		switch {
		case s == nil || s.denied:
		case !s.plain:
			w.broken("user %d: a login is lost: %+v: %v", u.n, *s, err)
		case old == nil && time.Now().Before(s.until):
			w.broken("user %d: a token is lost: %+v: %v", u.n, *s, err)
		}
	case w.calm:
		w.broken("user %d: in the end: %v", u.n, err)
	}
	return token
}

// full reports whether a user was turned away, and checks that there was no room; w.mu is held.
func (h *house) full(u *user, err error) bool {
	if !errors.Is(err, tokensource.ErrKeysFull) {
		return false
	}
	kept := 0
	for _, other := range h.users {
		if other != u && other.stays(time.Now().Add(-time.Second)) { // that long after a search there is no other
			kept++
		}
	}
	if kept < h.w.users.room {
		h.w.broken("user %d was turned away, though at most %d of %d keys must stay", u.n, kept, h.w.users.room)
	}
	return true
}

// RoundTrip is the token endpoint as the network leads to it.
func (h *house) RoundTrip(req *http.Request) (*http.Response, error) {
	data, err := io.ReadAll(req.Body)
	if err != nil {
		panic(fmt.Sprint("sim: form: ", err))
	}
	form, _ := url.ParseQuery(string(data))
	d := h.draw()
	if err := pause(req.Context(), d.upTo(h.w.users.latency)); err != nil {
		return nil, err
	}
	if h.chance(d) {
		return answer(req, 503, `{"error":"temporarily_unavailable"}`), nil
	}
	resp, s := h.act(req, form.Get("refresh_token"))
	err = pause(req.Context(), d.upTo(h.w.users.latency))
	if err == nil && h.chance(d) {
		err = errLost
	}
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.w.note("a reply to %q: %d, %v", form.Get("refresh_token"), resp.StatusCode, err)
	s.lost = err != nil
	s.denied = s.denied || resp.StatusCode == 400 && !s.lost
	if s.lost {
		return nil, err
	}
	return resp, nil
}

// act is what the server does.
func (h *house) act(req *http.Request, refresh string) (*http.Response, *session) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	var u, n, turn int
	if _, err := fmt.Sscanf(refresh, "refresh %d %d %d", &u, &n, &turn); err != nil {
		panic(fmt.Sprint("sim: refresh token: ", err))
	}
	if got := req.Context().Value(userKey{}); got != u {
		h.w.broken("user %d: the token request has the context of user %v", u, got)
	}
	s := h.users[u].logins[n]
	if turn != s.turn && !s.lost && !s.dead {
		h.w.broken("user %d: the refresh token %d of login %d is sent again", u, turn, n)
	}
	if s.dead = s.dead || turn != s.turn; s.dead {
		return answer(req, 400, `{"error":"invalid_grant"}`), s
	}
	s.turn++
	life := h.w.users.life
	s.until, s.lost = time.Now().Add(life), true // until it arrives
	return answer(req, 200, fmt.Sprintf(`{"access_token":"access-%d-%d-%d","token_type":"Bearer","refresh_token":"refresh %d %d %d","expires_in":%d}`,
		u, n, s.turn, u, n, s.turn, life/time.Second)), s
}

// draw returns the randomness of an operation.
func (h *house) draw() *dice {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.draws++
	return h.w.draw("house", h.draws)
}

// chance reports whether something fails.
func (h *house) chance(d *dice) bool {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	return d.chance(h.w.users.fails) && !h.w.calm
}
