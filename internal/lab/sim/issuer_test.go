package sim_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// An issuer is the authorization server: it rotates refresh tokens, and ends all
// of a login's tokens when one is used again.
type issuer struct {
	w        *world
	ahead    time.Duration // of our clock
	families []*family     // a login each; the first is the client's own
	tokens   []*access
	access   map[string]*access
	spent    map[string]*spending
	calls    int
	denied   time.Time // the last invalid_grant
}

// A family is all the tokens of one login.
type family struct {
	w          *world
	n, refresh int
	dead       bool
}

// An access token.
type access struct {
	n      int
	family *family
	text   string
	ends   time.Time // by the server's clock
	ended  bool
	life   time.Duration // as its reply tells; zero: it doesn't
	until  time.Time     // as its receiver believes, at the latest; zero: unknown
	came   time.Time
}

// A spending is what is known of a refresh token that was sent.
type spending struct {
	sending bool
	arrived bool // the reply to it
	excused bool // it may be sent again
}

func (i *issuer) init() {
	i.access, i.spent = map[string]*access{}, map[string]*spending{}
	i.families = []*family{{w: i.w}}
}

func (i *issuer) newest() *family { return i.families[len(i.families)-1] }

func (i *issuer) now() time.Time { return time.Now().Add(i.ahead) }

// endAccess ends the access tokens of a family, or all.
func (i *issuer) endAccess(f *family) {
	for _, a := range i.tokens {
		a.ended = a.ended || f == nil || a.family == f
	}
}

// valid reports whether an API accepts the token; one that it has refused it never does again.
func (i *issuer) valid(a *access) bool {
	a.ended = a.ended || !i.now().Before(a.ends)
	return !a.ended
}

// mint makes an access token.
func (i *issuer) mint(f *family) *access {
	if i.w.oneAccess && f.n > 0 {
		i.endAccess(f)
	}
	a := &access{n: len(i.tokens) + 1, family: f, ends: i.now().Add(i.w.life)}
	a.text = fmt.Sprint("access-", a.n)
	switch i.w.tells {
	case tellsSeconds, tellsEarly:
		a.life = i.w.life.Truncate(time.Second)
	case tellsJWT:
		a.life = max(time.Second, i.w.life.Truncate(time.Second))
		iat := i.now().Unix()
		a.text = jwt(map[string]any{"iat": iat, "exp": iat + int64(a.life/time.Second), "jti": a.text})
	}
	i.tokens = append(i.tokens, a)
	i.access[a.text] = a
	return a
}

func jwt(claims map[string]any) string {
	part := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(data)
	}
	return part(map[string]string{"alg": "ES256"}) + "." + part(claims) + ".c2ln"
}

// login begins a family, and returns its first token, which may be a refresh token alone.
func (i *issuer) login(d *dice) (t *tokensource.Token, n, seq int) {
	f := &family{w: i.w, n: len(i.families)}
	i.families = append(i.families, f)
	t = &tokensource.Token{RefreshToken: f.token(), TokenType: i.kind()}
	if d.chance(0.5) {
		return t, f.n, 0
	}
	a := i.mint(f)
	a.came = time.Now()
	t.AccessToken = a.text
	if i.w.tells != tellsNothing {
		a.until = time.Now().Add(a.life)
		t.Expiry = a.until
	}
	return t, f.n, a.n
}

func (f *family) token() string { return fmt.Sprintf("refresh-%d-%d", f.n, f.refresh) }

func (i *issuer) kind() string {
	if i.w.dpop {
		return "DPoP"
	}
	return "Bearer"
}

// familyOf returns the family of a refresh token; nil if there is none.
func (i *issuer) familyOf(refresh string) *family {
	var n, generation int
	if _, err := fmt.Sscanf(refresh, "refresh-%d-%d", &n, &generation); err != nil {
		return nil
	}
	return i.families[n]
}

func (i *issuer) byNumber(n int) *access {
	if n == 0 {
		return nil
	}
	return i.tokens[n-1]
}

// afterLogout notes a token request though the user has logged out; w.mu is held.
func (w *world) afterLogout(x *exchange) {
	grace := time.Duration(0)
	if w.plan.processes > 1 {
		grace = 6 * time.Second // Stored may be on its way to the source
	}
	last, alone := w.lastOp(x.began.Add(-grace))
	if alone && last != nil && !last.login && last.err == nil && !w.store.excused {
		w.broken("token request %d after the logout", x.n)
	}
}

// refreshed is the Cache's OnRefresh.
func (p *process) refreshed(r tokensource.Refresh) {
	w := p.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note("process %d: refresh (%s) after %v with %d waiters: %v", p.n, r.Cause, r.Duration, r.Waiters, r.Err)
	if errors.Is(r.Err, context.DeadlineExceeded) {
		p.timedOut = time.Now()
	}
	switch {
	case r.Cause != tokensource.Refused || r.Err != nil: // the caller waits out a failure, and causes the next
		p.others++
	case r.Err == nil && w.plan.processes == 1 && p.last.good && p.last.token != nil &&
		p.last.ended.Equal(time.Now()) && !p.last.began.Before(time.Now().Add(-r.Duration)): // else it was begun for another reason
		p.wasted++
	}
	if r.Err != nil && !w.explains(p, r.Err, time.Now()) {
		w.broken("process %d: a refresh failed by itself: %v", p.n, r.Err)
	}
}

// explains reports whether a source's error is one that the plan contains; w.mu is held.
func (w *world) explains(p *process, err error, began time.Time) bool {
	text := err.Error()
	switch {
	case errors.Is(err, tokensource.ErrReauthenticate):
		return w.mayBeLoggedOut(began)
	case strings.Contains(text, "fault-"):
		return true // whether it is the last one, see current
	case errors.Is(err, context.DeadlineExceeded): // the Cache's, or Stored's
		return w.maybeSlow()
	case w.plan.processes > 1 && isStoreError(err):
		return w.store.faulty()
	case w.dpop && strings.Contains(text, "use_dpop_nonce"):
		return w.has(newNonces)
	case w.dpop && strings.Contains(text, "invalid_grant"):
		return !w.issuer.denied.IsZero()
	}
	return false
}

// mayBeLoggedOut reports whether nothing but a login can help; w.mu is held.
func (w *world) mayBeLoggedOut(began time.Time) bool {
	if w.userless {
		return false
	}
	last, alone := w.lastOp(began)
	switch denied := w.issuer.denied; {
	case !alone || last == nil || !last.login:
		return true
	case w.plan.processes == 1:
		return !denied.Before(last.end)
	default: // another process may have to find out yet
		return !denied.IsZero() || slices.ContainsFunc(w.ops, func(o *op) bool { return !o.login || o.err != nil })
	}
}

func isStoreError(err error) bool {
	_, ok := errors.AsType[*tokensource.StoreError](err)
	return ok
}
