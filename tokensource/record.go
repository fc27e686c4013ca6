package tokensource

import (
	"encoding/json"
	"errors"
	"fmt"
)

// A record is what [Stored] keeps in a [Store]: a token, or that a new login is
// needed. Each has a greater generation than the one that it follows: by one,
// or as great as the time in milliseconds if somebody has logged in or out.
type record struct {
	gen            uint64 // zero: there is nothing
	token          *Token
	reauthenticate bool
}

// recordVersion is that of the JSON. A greater one is not understood, and is
// left alone.
const recordVersion = 1

// maxGeneration is what any JSON number may be, and is never reached.
const maxGeneration = 1 << 53

type recordJSON struct {
	Version        int             `json:"v"`
	Generation     uint64          `json:"gen"`
	Token          json.RawMessage `json:"token,omitempty"`
	Reauthenticate bool            `json:"reauthenticate,omitempty"`
}

func (r record) encode() ([]byte, error) {
	j := recordJSON{Version: recordVersion, Generation: r.gen, Reauthenticate: r.reauthenticate}
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
	*r = record{gen: j.Generation, reauthenticate: j.Reauthenticate}
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
