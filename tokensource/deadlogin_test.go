package tokensource_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
	"github.com/tokentripper/tokentripper/transport"
)

func TestFinalIsNotAskedWhereAnotherEndpointHasRefused(t *testing.T) {
	lender := &tokensource.ClientCredentials{Endpoint: endpointReply(400, nil, `{"error":"bad_refresh_token"}`)}
	e := endpointReply(200, nil, `{"access_token":"a"}`)
	e.ClientAssertion = lender
	_, err := (&tokensource.RefreshToken{Endpoint: e, RefreshToken: "alive", Final: byCode("bad_refresh_token")}).Token(t.Context(), nil)
	if err == nil || errors.Is(err, tokensource.ErrReauthenticate) {
		t.Errorf("got %v, want an error that is not ErrReauthenticate: the assertion was refused, not the refresh token", err)
	}
}

// datedReplies is an endpoint whose replies come one after the other, the last one for ever, with a Date.
func datedReplies(skew time.Duration, replies ...string) (tokensource.Endpoint, *[]string) {
	var sent []string
	e := endpointReply(0, nil, "")
	e.Client.Transport = endpointFunc(func(req *http.Request) (*http.Response, error) {
		form, _ := io.ReadAll(req.Body)
		reply := replies[min(len(sent), len(replies)-1)]
		sent = append(sent, string(form))
		var status int
		fmt.Sscan(reply, &status)
		h := http.Header{"Date": {time.Now().Add(skew).UTC().Format(http.TimeFormat)}}
		return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(reply[4:]))}, nil
	})
	return e, &sent
}

func TestInvalidGrantBesideAnAssertionOrAProofIsFinalTheSecondTime(t *testing.T) {
	const refused, granted, away = `400 {"error":"invalid_grant"}`, `200 {"access_token":"a"}`, `503 {"error":"invalid_grant"}`
	assertion := &tokensource.SignedJWT{Key: testEd(), Audience: []string{"aud"}}
	for _, c := range []struct {
		name    string
		source  tokensource.Source
		proof   bool
		skew    time.Duration
		replies []string
		final   func(*tokensource.EndpointError) bool
		dead    bool
		sent    int
	}{
		{name: "assertion", source: assertion, replies: []string{refused}, dead: true, sent: 2},
		{name: "proof", proof: true, replies: []string{refused}, dead: true, sent: 2},
		{name: "both", source: assertion, proof: true, replies: []string{refused}, dead: true, sent: 2},
		{name: "neither", replies: []string{refused}, dead: true, sent: 1},
		{name: "it was the assertion", source: assertion, replies: []string{refused, granted}, sent: 2},
		{name: "it was the proof", proof: true, replies: []string{refused, granted}, sent: 2},
		{name: "no answer the second time", source: assertion, replies: []string{refused, away}, sent: 2},
		{name: "a gateway", source: assertion, replies: []string{away}, sent: 1},
		{name: "clock ahead", source: assertion, skew: -15 * time.Second, replies: []string{refused}, sent: 1},
		{name: "clock behind", proof: true, skew: 15 * time.Second, replies: []string{refused}, sent: 1},
		{name: "an assertion that stays", source: tokensource.Static(&Token{AccessToken: "jwt"}), replies: []string{refused}, sent: 1},
		{name: "an assertion that stays, and a proof", source: tokensource.Static(&Token{AccessToken: "jwt"}), proof: true, replies: []string{refused}, sent: 1},
		{name: "Final", source: assertion, replies: []string{refused}, final: byCode("invalid_grant"), dead: true, sent: 1},
	} {
		e, sent := datedReplies(c.skew, c.replies...)
		e.ClientAssertion = c.source
		if c.proof {
			e.Client.Transport = &transport.DPoP{Base: e.Client.Transport, Key: testP256()}
		}
		_, err := (&tokensource.RefreshToken{Endpoint: e, RefreshToken: "rt", Final: c.final}).Token(t.Context(), nil)
		if errors.Is(err, tokensource.ErrReauthenticate) != c.dead || len(*sent) != c.sent {
			t.Errorf("%s: got %v after %d requests, want ErrReauthenticate: %t, after %d", c.name, err, len(*sent), c.dead, c.sent)
		}
		if _, told := errors.AsType[*tokensource.EndpointError](err); err != nil && !told {
			t.Errorf("%s: got %v, want the reply", c.name, err)
		}
		if len(*sent) == 2 && c.source != nil && (*sent)[0] == (*sent)[1] {
			t.Errorf("%s: the same assertion was sent twice", c.name)
		}
	}
}

func TestInvalidGrantBesideAnAssertionIsNotFinalWithoutADate(t *testing.T) {
	e := endpointReply(400, nil, `{"error":"invalid_grant"}`)
	e.ClientAssertion = &tokensource.SignedJWT{Key: testEd(), Audience: []string{"aud"}}
	_, err := (&tokensource.RefreshToken{Endpoint: e, RefreshToken: "rt"}).Token(t.Context(), nil)
	if _, ok := err.(*tokensource.EndpointError); !ok {
		t.Errorf("got %v, want the reply alone", err)
	}
}

// A vault is a login of the user's that keeps its refresh token, if it has one, to itself.
type vault struct {
	tokensource.Func
	spends bool
}

func (v vault) Spends() bool { return v.spends }

func TestASourceThatSpendsIsNotAskedWithoutTheLock(t *testing.T) {
	calls := 0
	ask := tokensource.Func(func(context.Context, *Token) (*Token, error) {
		calls++
		return &Token{AccessToken: "a"}, nil
	})
	for _, c := range []struct {
		source tokensource.Source
		want   int
	}{{ask, 2}, {vault{ask, false}, 2}, {vault{ask, true}, 0}} {
		calls = 0
		s := &tokensource.Stored{Source: c.source, Store: failingStore{errAway}, Key: "k", Unshared: true}
		s.Token(t.Context(), nil)
		s.Token(t.Context(), &Token{AccessToken: "a"})
		if calls != c.want {
			t.Errorf("%T: asked %d times while the store was away, want %d", c.source, calls, c.want)
		}
	}
}

type failingStore struct{ err error }

func (f failingStore) Load(context.Context, string) ([]byte, error) { return nil, f.err }
func (f failingStore) Update(context.Context, string, func([]byte, func([]byte) error) error) error {
	return f.err
}

func TestAGoodReplyIsNotLostForASideFieldOfAWrongType(t *testing.T) {
	for _, side := range []string{
		`"error":false`, `"error":null`, `"error":""`, `"error":0`, `"error":{}`, `"error_description":1`, `"error_uri":["x"]`, `"token_type":[1]`,
		`"scope":1`, `"scope":[1]`, `"expires_in":{}`, `"expires_at":[]`, `"expires_at":"soon"`, `"expires_at":"NaN"`, `"refresh_in":true`,
	} {
		got, err := endpointReply(200, nil, `{"access_token":"a","refresh_token":"next",`+side+`}`).Exchange(t.Context(), anyGrant)
		if err != nil || got.AccessToken != "a" || got.RefreshToken != "next" || !got.Expiry.IsZero() || got.Scope != "" || got.Extra != nil {
			t.Errorf("%s: got %#v and %v, want both tokens", side, got, err)
		}
	}
	got, err := (&tokensource.RefreshToken{
		Endpoint: endpointReply(200, nil, `{"access_token":"a","refresh_token":false}`), RefreshToken: "kept",
	}).Token(t.Context(), nil)
	if err != nil || got.RefreshToken != "kept" {
		t.Errorf("got %#v and %v, want the refresh token that was sent", got, err)
	}
}

func TestTheEndOfALifeIsReadHoweverItIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		at := now.Add(time.Hour)
		for members, want := range map[string]time.Duration{
			fmt.Sprintf(`"expires_in":%d`, at.Unix()):                                  time.Hour,
			fmt.Sprintf(`"expires_in":"%d"`, at.Unix()):                                time.Hour,
			fmt.Sprintf(`"expires_in":%d`, at.UnixMilli()):                             time.Hour,
			fmt.Sprintf(`"expires_in":%d`, now.Add(-time.Hour).Unix()):                 absurd,
			fmt.Sprintf(`"expires_at":%d`, at.Unix()):                                  time.Hour,
			fmt.Sprintf(`"expires_at":"%d"`, at.Unix()):                                time.Hour,
			fmt.Sprintf(`"expires_at":%d`, at.UnixMilli()):                             time.Hour,
			fmt.Sprintf(`"expires_at":%q`, at.Format(time.RFC3339)):                    time.Hour,
			fmt.Sprintf(`"expires_at":%q`, now.Add(-time.Hour).Format(time.RFC3339)):   0,
			fmt.Sprintf(`"expires_at":%d,"expires_in":60`, at.Unix()):                  time.Minute,
			fmt.Sprintf(`"expires_at":%d,"expires_in":7200`, at.Unix()):                time.Hour,
			fmt.Sprintf(`"expires_at":%d,"expires_in":60`, now.Add(-time.Hour).Unix()): time.Minute,
			`"expires_at":253402300799`:                                                absurd,
			`"expires_at":500000000000`:                                                0, // milliseconds, which are past
		} {
			// A server whose clock is two hours ahead tells moments by that.
			for _, skew := range []time.Duration{0, 2 * time.Hour} {
				h := http.Header{"Date": {now.Add(skew).UTC().Format(http.TimeFormat)}}
				if skew > 0 && !strings.Contains(members, fmt.Sprint(at.Unix())) || strings.Contains(members, "7200") && skew > 0 {
					continue
				}
				shown := strings.ReplaceAll(members, fmt.Sprint(at.Unix()), fmt.Sprint(at.Add(skew).Unix()))
				got, err := endpointReply(200, h, `{"access_token":"a",`+shown+`}`).Exchange(t.Context(), anyGrant)
				if err != nil || life(got.Expiry, now) != want {
					t.Errorf("%s, clock %v ahead: got %#v and %v, want %v", shown, skew, got, err, want)
				}
			}
		}
	})
}

// expOnly is a JWT like PocketBase's, which tells its end alone.
func expOnly(at time.Time) string {
	return unsignedJWT(`{"alg":"none"}`, fmt.Sprintf(`{"exp":%d}`, at.Unix()))
}

func TestAJWTWithoutIatLivesUntilExpByTheServersClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		for skew, exp := range map[time.Duration]time.Duration{0: time.Hour, time.Hour: 2 * time.Hour, -time.Hour: 0} {
			h := http.Header{"Date": {now.Add(skew).UTC().Format(http.TimeFormat)}}
			got, err := endpointReply(200, h, `{"access_token":"`+expOnly(now.Add(exp))+`"}`).Exchange(t.Context(), anyGrant)
			if err != nil || life(got.Expiry, now) != time.Hour {
				t.Errorf("clock %v ahead: got %#v and %v, want an hour", skew, got, err)
			}
		}
		ended := expOnly(now.Add(-time.Hour))
		got, err := endpointReply(200, nil, `{"access_token":"`+ended+`"}`).Exchange(t.Context(), anyGrant)
		if err != nil || !got.Expiry.IsZero() {
			t.Errorf("got %#v and %v, want a token of unknown life: it was issued just now", got, err)
		}
	})
}

func TestAJWTWithoutIatThatEndedOnTheDiskIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := &Token{AccessToken: "next"}
		c := &tokensource.Cache{Source: tokensource.Static(next)}
		c.Set(t.Context(), &Token{AccessToken: expOnly(time.Now().Add(-time.Hour))})
		if got, err := c.Token(t.Context(), nil); err != nil || got.AccessToken != "next" {
			t.Errorf("got %v and %v, want the next token", got, err)
		}
	})
}

func TestAnEndpointTalksJSON(t *testing.T) {
	var body, media string
	e := tokensource.Endpoint{URL: "https://login.example.com/auth/refresh", ClientID: "app", Client: &http.Client{
		Transport: endpointFunc(func(req *http.Request) (*http.Response, error) {
			data, err := io.ReadAll(req.Body)
			body, media = string(data), req.Header.Get("Content-Type")
			reply := `{"code":0,"data":{"accessToken":"a","refreshToken":"next","expires":3600000}}`
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(reply))}, err
		}),
	}}
	e.RequestJSON = func(form url.Values) any { return map[string]string{"refreshToken": form["refresh_token"][0]} }
	e.ReplyJSON = func(body []byte) ([]byte, error) {
		var r struct {
			Data struct {
				AccessToken, RefreshToken string
				Expires                   float64
			}
		}
		if err := json.Unmarshal(body, &r); err != nil {
			return nil, err
		}
		return json.Marshal(map[string]any{
			"access_token": r.Data.AccessToken, "refresh_token": r.Data.RefreshToken, "expires_in": r.Data.Expires / 1000,
		})
	}
	began := time.Now()
	got, err := (&tokensource.RefreshToken{Endpoint: e, RefreshToken: "rt"}).Token(t.Context(), nil)
	if err != nil || got.AccessToken != "a" || got.RefreshToken != "next" || got.Expiry.Sub(began).Round(time.Minute) != time.Hour {
		t.Errorf("got %#v and %v, want both tokens for an hour", got, err)
	}
	if body != `{"refreshToken":"rt"}` || media != "application/json" {
		t.Errorf("sent %s of type %s, want the refresh token as JSON", body, media)
	}
}

func TestWhatAHookCannotDoIsToldWithoutSecrets(t *testing.T) {
	broken := errors.New("no such member")
	for _, c := range []struct {
		status      int
		body        string
		reply       func([]byte) ([]byte, error)
		request     func(url.Values) any
		want        string
		isOfTheHook bool
	}{
		{200, `{"x":1}`, func([]byte) ([]byte, error) { return nil, broken }, nil, "tokensource: the token endpoint answered 200: Endpoint.ReplyJSON: no such member", true},
		{200, `{"x":1}`, func([]byte) ([]byte, error) { return nil, fmt.Errorf("%w: rt-secret", broken) }, nil, "tokensource: the token endpoint answered 200: Endpoint.ReplyJSON: no such member: [redacted]", false},
		{502, `<html>`, func([]byte) ([]byte, error) { return nil, broken }, nil, "tokensource: the token endpoint answered 502: Endpoint.ReplyJSON: no such member", true},
		{400, ``, func([]byte) ([]byte, error) { panic("called for an empty body") }, nil, "tokensource: the token endpoint answered 400", false},
		{200, `{"x":1}`, func([]byte) ([]byte, error) { return nil, nil }, nil, "tokensource: the token endpoint answered 200: reply: empty", false},
		{200, `{"x":1}`, func([]byte) ([]byte, error) { return []byte(`access_token=at`), nil }, nil, "tokensource: the token endpoint answered 200: reply: not a JSON object", false},
		{200, `{"x":1}`, func([]byte) ([]byte, error) { return []byte(` {"error":"gone"}`), nil }, nil, "tokensource: the token endpoint answered 200 gone", false},
		{200, `{"x":1}`, nil, func(url.Values) any { return func() {} }, "tokensource: Endpoint.RequestJSON: its result cannot be encoded as JSON: a *json.UnsupportedTypeError", false},
	} {
		e := endpointReply(c.status, contentType("text/plain"), c.body)
		e.ReplyJSON = c.reply
		if c.request != nil {
			e.RequestJSON = func(form url.Values) any { return c.request(form) }
		}
		_, err := (&tokensource.RefreshToken{Endpoint: e, RefreshToken: "rt-secret"}).Token(t.Context(), nil)
		if err == nil || err.Error() != c.want || errors.Is(err, broken) != c.isOfTheHook {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func TestOthersThanRetryAfterAskForAPause(t *testing.T) {
	for _, c := range []struct {
		status int
		h      map[string]string
		want   time.Duration
	}{
		{400, map[string]string{"X-Retry-After": "7"}, 7 * time.Second},
		{429, map[string]string{"X-Retry-After": "7", "Retry-After": "3"}, 3 * time.Second},
		{429, map[string]string{"RateLimit-Reset": "9"}, 9 * time.Second},
		{429, map[string]string{"RateLimit-Reset": "9", "RateLimit-Remaining": "0"}, 9 * time.Second},
		{429, map[string]string{"RateLimit-Reset": "9", "RateLimit-Remaining": "10"}, 0},
		{503, map[string]string{"RateLimit": "limit=10, remaining=0, reset=5"}, 5 * time.Second},
		{503, map[string]string{"RateLimit": "limit=10, remaining=1, reset=5"}, 0},
		{429, map[string]string{"RateLimit": `"burst";r=0;t=5, "day";r=3;t=9000`}, 5 * time.Second},
		{429, map[string]string{"RateLimit": `"burst";r=0;t=5,"day";r=0;t=90`}, 90 * time.Second},
		{429, map[string]string{"RateLimit": `"burst";r=0,"day";t=90`}, 0},
		{429, map[string]string{"RateLimit": `"burst";r=0;t=x`}, 0},
		{400, map[string]string{"RateLimit": `"burst";r=0;t=5`}, 0},
		{200, map[string]string{"RateLimit-Reset": "9"}, 0},
	} {
		h := http.Header{}
		for name, value := range c.h {
			h.Set(name, value)
		}
		_, err := endpointReply(c.status, h, `{"error":"x"}`).Exchange(t.Context(), anyGrant)
		if e, _ := errors.AsType[*tokensource.EndpointError](err); e == nil || e.RetryAfter != c.want {
			t.Errorf("%d %v: got %v, want a RetryAfter of %v", c.status, c.h, err, c.want)
		}
	}
}

func TestWhatCameWithATokenIsKept(t *testing.T) {
	reply := `{"access_token":"a","scope":"read write","id_token":"x.y.z","refresh_expires_in":12345678901234567890,"o":{"b": [1, null]}}`
	e := endpointReply(200, contentType("application/json"), reply)
	check := func(what string, got *Token, err error) {
		t.Helper()
		var id string
		if err != nil || got.Scope != "read write" || json.Unmarshal(got.Extra["id_token"], &id) != nil || id != "x.y.z" ||
			string(got.Extra["refresh_expires_in"]) != "12345678901234567890" || len(got.Extra) != 3 {
			t.Errorf("%s: got scope %q and extra %q, %v, want all that came", what, got.Scope, got.Extra, err)
		}
	}
	source := &tokensource.RefreshToken{Endpoint: e, RefreshToken: "rt"}
	got, err := source.Token(t.Context(), nil)
	check("RefreshToken", got, err)
	data, err := tokensource.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	got, err = tokensource.Unmarshal(data)
	check("Unmarshal", got, err)
	store := &tokensource.Encrypted{Store: new(storetest.Memory), Keys: [][]byte{make([]byte, 32)}}
	for _, name := range []string{"the process that asked", "another"} {
		got, err := (&tokensource.Stored{Source: source, Store: store, Key: "k"}).Token(t.Context(), nil)
		check(name, got, err)
	}
}

func TestWhatCannotBeStoredOfTheRestIsLeftOutNotTheToken(t *testing.T) {
	odd := &Token{AccessToken: "a", RefreshToken: "next", Scope: "re\xffad", Extra: map[string]json.RawMessage{
		"good": json.RawMessage(`1`), "bad": json.RawMessage(`{`), "empty": nil, "na\xffme": json.RawMessage(`1`),
	}}
	for _, field := range []string{"scope", "Extra"} {
		one := *odd
		if field == "scope" {
			one.Extra = nil
		}
		if _, err := tokensource.Marshal(&one); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("got %v, want an error that names %s", err, field)
		}
	}
	store := new(storetest.Memory)
	(&tokensource.Stored{Source: tokensource.Static(odd), Store: store, Key: "k"}).Token(t.Context(), nil)
	got, err := (&tokensource.Stored{Source: tokensource.Static(odd), Store: store, Key: "k"}).Token(t.Context(), nil)
	if err != nil || got.RefreshToken != "next" || got.Scope != "read" || len(got.Extra) != 1 || string(got.Extra["good"]) != "1" {
		t.Errorf("got %#v, scope %q, extra %q, %v, want what JSON can tell", got, got.Scope, got.Extra, err)
	}
	if len(odd.Extra) != 4 {
		t.Error("the Source's own token was changed")
	}
}
