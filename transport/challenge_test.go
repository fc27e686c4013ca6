package transport_test

import (
	"math/rand/v2"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/transport"
)

type challenges = []transport.Challenge

type params = map[string]string

func challenged(lines ...string) challenges {
	return transport.Challenges(&http.Response{Header: http.Header{"Www-Authenticate": lines}})
}

func wantChallenges(t *testing.T, want challenges, lines ...string) {
	t.Helper()
	if got := challenged(lines...); !reflect.DeepEqual(got, want) {
		t.Errorf("%q:\n got %q\nwant %q", lines, got, want)
	}
}

func TestChallengesOfTheRFCs(t *testing.T) {
	// RFC 9110 section 11.6.1
	wantChallenges(t, challenges{{"Basic", "", params{"realm": "simple"}}, {"Newauth", "", params{"realm": "apps", "type": "1", "title": `Login to "apps"`}}},
		`Basic realm="simple", Newauth realm="apps", type=1, title="Login to \"apps\""`)
	// RFC 6750 section 3
	wantChallenges(t, challenges{{"Bearer", "", params{"realm": "example", "error": "invalid_token", "error_description": "The access token expired"}}},
		`Bearer realm="example", error="invalid_token", error_description="The access token expired"`)
	// RFC 9449 sections 7.1 and 9
	wantChallenges(t, challenges{{"DPoP", "", params{"algs": "ES256 PS256"}}}, `DPoP algs="ES256 PS256"`)
	wantChallenges(t, challenges{{"Bearer", "", nil}, {"DPoP", "", params{"algs": "ES256"}}}, `Bearer, DPoP algs="ES256"`)
	wantChallenges(t, challenges{{"DPoP", "", params{"error": "use_dpop_nonce", "error_description": "Resource server requires nonce in DPoP proof"}}},
		`DPoP error="use_dpop_nonce", error_description="Resource server requires nonce in DPoP proof"`)
	// RFC 9470 section 3
	wantChallenges(t, challenges{{"Bearer", "", params{"error": "insufficient_user_authentication", "error_description": "A different authentication level is required", "acr_values": "myACR", "max_age": "5"}}},
		`Bearer error="insufficient_user_authentication", error_description="A different authentication level is required", acr_values="myACR", max_age="5"`)
	// RFC 4559
	wantChallenges(t, challenges{{"Negotiate", "a87421000492aa874209af8bc028==", nil}, {"NTLM", "", nil}}, "Negotiate a87421000492aa874209af8bc028==, NTLM")
}

func TestChallengesInEveryPermittedShape(t *testing.T) {
	a, b := transport.Challenge{"Bearer", "", params{"realm": "a", "error": "b"}}, transport.Challenge{"Basic", "", params{"realm": "c"}}
	for _, lines := range [][]string{
		{`Bearer realm="a", error="b", Basic realm="c"`},
		{`Bearer realm="a", error="b"`, `Basic realm="c"`},
		{`Bearer REALM = "a" ,Error	=	b,Basic   realm= c`},
		{` , ,Bearer realm=a,,error="\b", , Basic realm="\c",`},
		{"Bearer\trealm=a\t,\terror=b", "", ",", "Basic realm=c"},
	} {
		wantChallenges(t, challenges{a, b}, lines...)
	}
	wantChallenges(t, challenges{{"bEARER", "", params{"realm": "", "x": `a,b="c\`}}}, `bEARER realm="", x="a,b=\"c\\"`)
	wantChallenges(t, nil)
	if got := transport.Challenges(&http.Response{}); got != nil {
		t.Errorf("without headers: got %v, want nil", got)
	}
}

func TestTheFirstParameterOfANameCounts(t *testing.T) {
	wantChallenges(t, challenges{{"Bearer", "", params{"error": "a"}}, {"Bearer", "", params{"error": "c"}}}, `Bearer error=a, ERROR=b, Bearer error=c`)
}

func TestWhatIsNoChallengeHidesNoneBesideIt(t *testing.T) {
	good := challenges{{"Bearer", "", params{"error": "e"}}}
	for _, lines := range [][]string{
		{`@@@, Bearer error=e`},
		{`Bearer error=e, @@@`},
		{`"quoted, Basic", Bearer error="e"`},
		{`"quoted, Basic , x", Bearer error="e"`},
		{`realm="orphan", Bearer error=e`},
		{`=x, Bearer error=e, ="y"`},
		{`B(d realm="a, b", Bearer error=e`},
		{`Bearer error="e" trailing, "x", {}`},
		{`Bearer error=e;x=y`},
		{"\xff\x00", `Bearer error="e`},
	} {
		wantChallenges(t, good, lines...)
	}
	wantChallenges(t, challenges{{"Basic", "", params{"realm": "x, Digest y"}}, good[0]}, `Basic realm="x, Digest y`, `Bearer error=e`)
	wantChallenges(t, challenges{{"Bearer", "", params{"error": "e", "realm": "x"}}}, `Bearer error=e, @@@, realm=x`)
	wantChallenges(t, good, `Bearer error=e`, `realm=orphan`)
	wantChallenges(t, challenges{{"Basic", "ab", nil}, good[0]}, `Basic ab, realm=x, Bearer error=e`)
	wantChallenges(t, challenges{{"Basic", "ab==", nil}, good[0]}, `Basic ab==, realm=x, Bearer error=e`)
}

func TestAParameterWithoutAValueIsEmpty(t *testing.T) {
	wantChallenges(t, challenges{{"Bearer", "", params{"realm": "", "error": "e"}}}, `Bearer Realm=, error=e`)
	wantChallenges(t, challenges{{"Bearer", "", params{"error": "e", "realm": ""}}}, `Bearer error=e, realm=`)
	wantChallenges(t, challenges{{"Bearer", "ab==", nil}, {"Basic", "", nil}}, `Bearer ab==, error=e, Basic`)
}

const tokenChars = "!#$%&'*+-.^_`|~0123456789abcxyzABCXYZ"

func pick(r *rand.Rand, chars string, least int) string {
	b := make([]byte, least+r.IntN(6))
	for i := range b {
		b[i] = chars[r.IntN(len(chars))]
	}
	return string(b)
}

// generated is a challenge of the grammar, and a way to write it.
func generated(r *rand.Rand) (c transport.Challenge, s string) {
	c.Scheme = pick(r, tokenChars, 1)
	switch r.IntN(3) {
	case 0:
		return c, c.Scheme
	case 1:
		c.Token68 = pick(r, "aZ09-._~+/", 1) + strings.Repeat("=", r.IntN(3))
		return c, c.Scheme + " " + c.Token68
	}
	c.Params = params{}
	var list []string
	for range 1 + r.IntN(4) {
		name, value := pick(r, tokenChars, 1), pick(r, tokenChars+"\" \t,=\\;é", 0)
		if _, ok := c.Params[strings.ToLower(name)]; ok {
			continue
		}
		c.Params[strings.ToLower(name)] = value
		space := pick(r, " \t", 0)
		list = append(list, name+space+"="+space+written(r, value))
	}
	return c, c.Scheme + " " + strings.Join(list, pick(r, " \t", 0)+","+pick(r, " ,", 0))
}

// written is a token or a quoted-string, where both are allowed either.
func written(r *rand.Rand, value string) string {
	if strings.Trim(value, tokenChars) == "" && value != "" && r.IntN(2) == 0 {
		return value
	}
	var b strings.Builder
	for i := range len(value) {
		if c := value[i]; c == '"' || c == '\\' || r.IntN(8) == 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(value[i])
	}
	return `"` + b.String() + `"`
}

func TestWhatTheGrammarWritesIsReadBack(t *testing.T) {
	for seed := range uint64(5000) {
		r := rand.New(rand.NewPCG(seed, 0))
		var want challenges
		var list []string
		for range 1 + r.IntN(4) {
			c, s := generated(r)
			want, list = append(want, c), append(list, s)
		}
		line := strings.Join(list, ", ")
		if got := challenged(line); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: %q\n got %q\nwant %q", seed, line, got, want)
		}
	}
}

func TestAMegabyteOfChallengesIsReadInOnePass(t *testing.T) {
	for _, unit := range []string{"a", "a ", "a=", `"`, `\"`, `a="`, `a="\`, ",", " ", "=", "a,", "a b=c,", "a b= ", "\t=", "a b=", "@", "a  =  "} {
		line := strings.Repeat(unit, 1<<20/len(unit))
		for _, line := range []string{line, "Bearer " + line, `Bearer x="` + line} {
			if n := len(challenged(line)); n > len(line) {
				t.Errorf("%q…: %d challenges", unit, n)
			}
		}
	}
}

func TestALineOf64KiBIsReadAndNoLongerOne(t *testing.T) {
	for size, want := range map[int]int{64 << 10: 1, 64<<10 + 1: 0} {
		line := "Bearer " + strings.Repeat("a", size-len("Bearer "))
		if got := len(transport.Challenges(&http.Response{Header: http.Header{"Www-Authenticate": {line}}})); got != want {
			t.Errorf("%d bytes: got %d challenges, want %d", size, got, want)
		}
	}
}

func TestLinesOf64KiBTogetherAreReadAndNoMore(t *testing.T) {
	half := "Bearer " + strings.Repeat("a", 32<<10-len("Bearer "))
	for _, last := range []string{"Basic", "B"} {
		if got := challenged(half, last, half, half[:len(half)-len(last)], last); len(got) != 3 {
			t.Errorf("got %d challenges, want 3: 64 KiB are full", len(got))
		}
	}
}
