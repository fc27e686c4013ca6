package tokensource

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tokentripper/tokentripper/internal/lineage"
)

// A record is what [Stored] keeps in a [Store]: a token, or that a new login is
// needed.
type record struct {
	lineage.Record
	token *Token
}

// known is the newest record that this process knows, and what became of saving it.
type known struct {
	lineage.Known
	token *Token
}

func saved(r record) known { return known{lineage.Known{Record: r.Record}, r.token} }

// follower returns what comes of an exchange of k: a token, or nil if the refresh token
// was refused.
func (k known) follower(token *Token) known {
	next := known{token: token}
	next.Record = lineage.Record{Generation: k.Generation + 1, Login: k.Login, Ended: token == nil}
	next.Outcome, next.Spent = lineage.Untried, token.keepsRefreshToken(k.token)
	return next
}

// answer returns what a caller gets who wants another token than old: a token, or that
// nothing helps but a login. Both are nil if the lock is needed: the newest record is
// pending, or its token is old or no longer good.
func (k known) answer(old *Token) (*Token, error) {
	now := time.Now()
	switch {
	case k.Outcome != lineage.Saved:
		return nil, nil
	case k.Ended:
		return nil, errEnded
	case k.token.good(now) && (!k.token.same(old) || k.token.settles(old, now)):
		return k.token, nil
	}
	return nil, nil
}

// recordVersion is that of the JSON. A greater one is not understood, and is
// left alone. Releases that know no login leave it out of what they save.
const recordVersion = 1

// maxGeneration is what any JSON number may be, and is never reached.
const maxGeneration = 1 << 53

type recordJSON struct {
	Version        int             `json:"v"`
	Generation     uint64          `json:"gen"`
	Login          string          `json:"login,omitempty"`
	Token          json.RawMessage `json:"token,omitempty"`
	Reauthenticate bool            `json:"reauthenticate,omitempty"`
	Lost           int64           `json:"lost,omitempty"`
}

func (r record) encode() ([]byte, error) {
	j := recordJSON{Version: recordVersion, Generation: r.Generation, Login: r.Login, Reauthenticate: r.Ended, Lost: r.Lost}
	if r.token != nil {
		token, err := Marshal(r.token)
		if err != nil {
			return nil, err
		}
		j.Token = token
	}
	return json.Marshal(j)
}

// decode fails for whatever encode did not write. Its errors quote nothing.
func (r *record) decode(data []byte) error {
	var j recordJSON
	if json.Unmarshal(data, &j) != nil || j.Version < 1 {
		return errors.New("the value is not a stored token, or was cut short")
	}
	if j.Version > recordVersion {
		return fmt.Errorf("the value is of version %d, newer than %d", j.Version, recordVersion)
	}
	if j.Generation == 0 || j.Generation >= maxGeneration || (j.Token == nil) != j.Reauthenticate {
		return errors.New("the value lacks a generation, or a token or reauthenticate")
	}
	r.Record = lineage.Record{Generation: j.Generation, Login: j.Login, Ended: j.Reauthenticate, Lost: j.Lost}
	if j.Token == nil {
		return nil
	}
	token, err := Unmarshal(j.Token)
	if err != nil || checkLogin(token) != nil {
		return errors.New("the value has no usable token")
	}
	r.token = token
	return nil
}

// keepsRefreshToken reports whether t has the refresh token of the token before.
func (t *Token) keepsRefreshToken(before *Token) bool {
	return t != nil && before != nil && t.RefreshToken != "" && t.RefreshToken == before.RefreshToken
}

// soon returns a copy that the Cache asks for again in a moment, when the Store
// may be back.
func (t *Token) soon() *Token {
	again := *t
	again.RefreshAt = time.Now().Add(unsavedPause)
	return &again
}

// settles reports whether old is t as soon returned it, and is asked for again because
// the moment has come: then t will do, now that it is saved.
func (t *Token) settles(old *Token, now time.Time) bool {
	return lapsed(now, old.RefreshAt) && !old.RefreshAt.Equal(t.RefreshAt)
}

// storable returns t, which may be a login's, as a Store can keep it. What JSON cannot tell of
// the rest, as a time when milliseconds are taken for seconds, is left out, for it is not worth
// a refresh token.
func (t *Token) storable() (*Token, error) {
	if err := checkLogin(t); err != nil {
		return nil, err
	}
	if err := t.checkText(); err != nil {
		return nil, err
	}
	kept := *t
	for _, at := range []*time.Time{&kept.Expiry, &kept.RefreshAt} {
		if _, err := at.MarshalText(); err != nil {
			*at = time.Time{}
		}
	}
	kept.Scope = strings.ToValidUTF8(kept.Scope, "")
	kept.Extra = maps.Clone(kept.Extra)
	maps.DeleteFunc(kept.Extra, func(name string, value json.RawMessage) bool {
		return !utf8.ValidString(name) || !json.Valid(value)
	})
	return &kept, nil
}
