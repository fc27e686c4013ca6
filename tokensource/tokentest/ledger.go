package tokentest

import (
	"crypto/rand"
	"errors"
	"time"
)

// Errors of Check and of a refresh. None holds any part of a token.
var (
	errUnknown = errors.New("tokentest: the token is not one of this server")
	errExpired = errors.New("tokentest: the token has expired")
	errRevoked = errors.New("tokentest: the token was revoked")
	errBound   = errors.New("tokentest: the refresh token is bound to another key")
	errReused  = errors.New("tokentest: the refresh token was used before, so its whole family is revoked")
)

// A ledger is what the server remembers of its tokens. Access tokens are not in it:
// they carry what is needed to look up whether they are revoked. Spent refresh tokens
// stay in it, so that the server recognizes them.
type ledger struct {
	accessLifetime    time.Duration
	refreshLifetime   time.Duration // 0: unlimited
	refreshEndsAccess bool

	// Tokens of an epoch before the current one are dead.
	accessEpoch, refreshEpoch uint64

	families map[string]*family
	refresh  map[string]*refreshToken
}

// A family is all tokens that come from one login.
type family struct {
	id      string
	subject string
	revoked bool

	// The refresh tokens are bound to the key with this thumbprint; empty: not bound
	// yet. Those of a public client are bound from its first refresh with a proof (RFC
	// 9449 section 5).
	key string

	// Each refresh begins a generation. Access tokens of a generation before oldest are
	// dead.
	generation, oldest uint64
}

type refreshToken struct {
	family *family
	epoch  uint64
	expiry time.Time // zero: never
	spent  bool
}

// A grant is what an access token and its refresh token are made from.
type grant struct {
	subject    string
	actor      string // empty: none
	key        string // thumbprint of the key the access token is bound to; empty: none
	family     string // empty: there is no family and no refresh token
	generation uint64
	epoch      uint64
	lifetime   time.Duration
	refresh    string
}

func newLedger() ledger {
	return ledger{
		accessLifetime: time.Hour,
		families:       make(map[string]*family),
		refresh:        make(map[string]*refreshToken),
	}
}

// RefreshToken returns a new refresh token of the user, as from a login. It has its own
// family.
func (s *Server) RefreshToken() string {
	id, token := rand.Text(), rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.add(token, s.ledger.open(id, s.Username))
	return token
}

// grantUser issues the first tokens of a new family.
func (s *Server) grantUser() grant {
	id, token := rand.Text(), rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Issued++
	f := s.ledger.open(id, s.Username)
	s.ledger.add(token, f)
	return s.ledger.grant(f, token)
}

// grantAlone issues an access token without a refresh token, for the subject, the actor
// and the key in g.
func (s *Server) grantAlone(g grant) grant {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Issued++
	g.epoch, g.lifetime = s.ledger.accessEpoch, s.ledger.accessLifetime
	return g
}

// rotate spends a refresh token. It checks for reuse first, so that reuse is counted
// whatever else is wrong with the token. The key is the thumbprint of the proof's key,
// or empty.
func (s *Server) rotate(presented, key string, client clientKind) (grant, error) {
	next := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	token := s.ledger.refresh[presented]
	if token != nil && token.spent {
		s.counts.Reuses++
		token.family.revoked = true
		return grant{}, errReused
	}
	if err := s.ledger.check(token, key); err != nil {
		return grant{}, err
	}
	if client == public {
		token.family.key = key
	}
	s.counts.Issued++
	s.counts.Rotations++
	g := s.ledger.rotate(token, next)
	g.key = key
	return g, nil
}

func (l *ledger) open(id, subject string) *family {
	f := &family{id: id, subject: subject}
	l.families[id] = f
	return f
}

func (l *ledger) add(token string, f *family) {
	t := &refreshToken{family: f, epoch: l.refreshEpoch}
	if l.refreshLifetime != 0 {
		t.expiry = time.Now().Add(l.refreshLifetime)
	}
	l.refresh[token] = t
}

func (l *ledger) grant(f *family, refresh string) grant {
	return grant{
		subject:    f.subject,
		family:     f.id,
		generation: f.generation,
		epoch:      l.accessEpoch,
		lifetime:   l.accessLifetime,
		refresh:    refresh,
	}
}

func (l *ledger) check(t *refreshToken, key string) error {
	switch {
	case t == nil:
		return errUnknown
	case t.family.revoked:
		return errRevoked
	case t.epoch < l.refreshEpoch, !t.expiry.IsZero() && !time.Now().Before(t.expiry):
		return errExpired
	case t.family.key != "" && t.family.key != key:
		return errBound
	}
	return nil
}

func (l *ledger) rotate(t *refreshToken, next string) grant {
	t.spent = true
	t.family.generation++
	if l.refreshEndsAccess {
		t.family.oldest = t.family.generation
	}
	l.add(next, t.family)
	return l.grant(t.family, next)
}

// revoked reports whether the access token of a grant was revoked.
func (l *ledger) revoked(g grant) bool {
	if g.epoch < l.accessEpoch {
		return true
	}
	f := l.families[g.family]
	return f != nil && (f.revoked || g.generation < f.oldest)
}
