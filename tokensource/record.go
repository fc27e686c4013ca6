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

// A record is what [Stored] keeps in a [Store]: a token, or the note that a new login
// is needed.
type record struct {
	lineage.Record
	token *Token
}

// known is the newest record that this process knows, and the result of saving it.
type known struct {
	lineage.Known
	token *Token
}

func saved(r record) known { return known{lineage.Known{Record: r.Record}, r.token} }

// follower returns the record after an exchange of k. A nil token means that the
// refresh token was refused.
func (k known) follower(token *Token) known {
	next := known{token: token}
	next.Record = lineage.Record{Generation: k.Generation + 1, Login: k.Login, Ended: token == nil}
	next.Outcome, next.Spent = lineage.Untried, token.keepsRefreshToken(k.token)
	return next
}

// answer returns the result for a caller that wants a token that differs from old: a
// token, or the error that only a login helps. Both are nil if the lock is needed,
// because the newest record is pending, or its token is old or no longer good.
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

// recordVersion is the version of the JSON. A record with a greater version is neither
// read nor overwritten. Releases that do not know login leave it out when they save.
const recordVersion = 1

// maxGeneration is the limit of exact JSON numbers, and is never reached.
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

// decode returns an error for a value that encode did not write. Its errors quote
// nothing of the value.
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

// keepsRefreshToken reports whether t has the same refresh token as before.
func (t *Token) keepsRefreshToken(before *Token) bool {
	return t != nil && before != nil && t.RefreshToken != "" && t.RefreshToken == before.RefreshToken
}

// soon returns a copy that the Cache refreshes soon, when the Store may be available
// again.
func (t *Token) soon() *Token {
	again := *t
	again.RefreshAt = time.Now().Add(unsavedPause)
	return &again
}

// settles reports whether old came from soon and its moment has come. Then t, which is
// saved now, replaces old without an exchange.
func (t *Token) settles(old *Token, now time.Time) bool {
	return lapsed(now, old.RefreshAt) && !old.RefreshAt.Equal(t.RefreshAt)
}

// storable returns t, which may come from a login, in a form that a Store can keep. It
// drops a time, scope or extra member that JSON cannot represent, such as a time of
// milliseconds taken for seconds, because losing the refresh token would be worse.
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
