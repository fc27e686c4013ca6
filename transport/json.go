package transport

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// HasJSON reports whether the JSON at the beginning of a response's body, see
// [PeekJSON], has one of the values at a path. It is for rules of [Auth.Refused]
// about servers that tell only there that they refuse the token. A rule looks at
// the status first: the body of a response that it settles by that is not touched.
//
//	Refused: func(resp *http.Response) bool {
//		return transport.Unauthorized(resp) ||
//			resp.StatusCode == 400 && transport.HasJSON(resp, "error", "ExpiredToken")
//	}
//
// The path consists of names of members, with a dot between two. A list on the way
// stands for each of its elements: "errors.extensions.code" finds the code in
//
//	{"errors": [{"extensions": {"code": "invalid-jwt"}}]}
//
// and "errors" finds what is in {"errors": ["invalid token"]}. A value is the text
// of a string, or a number, true or false as the server writes it: "99991677". It
// must be equal: nothing is found within a text.
func HasJSON(resp *http.Response, path string, values ...string) bool {
	return hasValue(PeekJSON(resp), path, values, maxLevels)
}

// PeekJSON returns the JSON object or list that a response's body consists of, or
// nil. The body stays as it was for those who read it after. It is for rules of
// [Auth.Refused] that [HasJSON] cannot express. What it returns must not be
// changed.
//
// It returns nil, and leaves the body alone, if the Content-Type is not
// application/json and ends in no +json, or if the response has no body, has a
// Content-Encoding, announces trailers, switches protocols, or is longer than 64
// KiB by its Content-Length. A body that net/http decompresses has no
// Content-Encoding any more, and is read.
//
// It reads only the beginning, and returns nil if that is not all: it waits up to
// 1 s for the body to begin, then up to 50 ms for the end of the object or list,
// neither beyond the request's context, and reads at most 64 KiB. So a rule holds a
// stream of JSON up for 50 ms at most. A Read that goes on after that may set
// resp.Trailer at any time: what Auth returns is a copy then.
func PeekJSON(resp *http.Response) []byte {
	if b, ok := resp.Body.(*beginning); ok {
		return b.value
	}
	if !peekable(resp) {
		return nil
	}
	return newBeginning(resp).value
}

// maxLevels bounds how deep values may be nested: each level costs one more pass.
const maxLevels = 32

// hasValue reports whether JSON has one of the values at the path.
func hasValue(text json.RawMessage, path string, values []string, levels int) bool {
	if len(text) == 0 || levels == 0 {
		return false
	}
	switch text[0] {
	case '[':
		var list []json.RawMessage
		return json.Unmarshal(text, &list) == nil && slices.ContainsFunc(list, func(item json.RawMessage) bool {
			return hasValue(item, path, values, levels-1)
		})
	case '{':
		var members map[string]json.RawMessage
		name, rest, _ := strings.Cut(path, ".")
		return path != "" && json.Unmarshal(text, &members) == nil && hasValue(members[name], rest, values, levels-1)
	case '"':
		var s string
		return path == "" && json.Unmarshal(text, &s) == nil && slices.Contains(values, s)
	}
	return path == "" && slices.Contains(values, string(text))
}

// peekable reports whether the body may be JSON, and be read before the caller
// reads it. It allocates nothing where the media type is in lower case.
func peekable(resp *http.Response) bool {
	if !isJSON(resp.Header.Get("Content-Type")) || resp.Body == nil || resp.Body == http.NoBody {
		return false
	}
	switch resp.StatusCode {
	case http.StatusNoContent, http.StatusNotModified:
		return false
	}
	if req := resp.Request; req != nil && (req.Method == http.MethodHead || req.Method == http.MethodConnect) {
		return false
	}
	_, upgraded := resp.Body.(interface{ Write([]byte) (int, error) })
	return !upgraded && resp.StatusCode >= 200 && resp.ContentLength <= maxBeginning &&
		resp.Header.Get("Content-Encoding") == "" &&
		len(resp.Trailer) == 0 // net/http writes their values, which a caller may not expect before it reads
}

// isJSON reports whether a media type is JSON: one value, not a line for each.
func isJSON(contentType string) bool {
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	return media == "application/json" || strings.HasSuffix(media, "+json") && media != "application/stream+json"
}
