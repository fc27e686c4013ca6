package transport

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// HasJSON reports whether the JSON in a response's body, see [PeekJSON], has one of the
// values at a path. It is for rules of [Auth.Refused], for servers that report a
// refused token only in the body. A rule checks the status first, so that HasJSON
// leaves all other bodies untouched.
//
//	Refused: func(resp *http.Response) bool {
//		return transport.Unauthorized(resp) ||
//			resp.StatusCode == 400 && transport.HasJSON(resp, "error", "ExpiredToken")
//	}
//
// The path consists of member names, separated by dots. A list on the way stands for
// each of its elements: "errors.extensions.code" finds the code in
//
//	{"errors": [{"extensions": {"code": "invalid-jwt"}}]}
//
// and "errors" finds the text in {"errors": ["invalid token"]}. A value is the text of
// a string, or a number, true or false as the server writes it: "99991677". The whole
// value must be equal, a part of a text does not match.
func HasJSON(resp *http.Response, path string, values ...string) bool {
	return hasValue(PeekJSON(resp), path, values, maxLevels)
}

// PeekJSON returns the JSON object or list that a response's body consists of, or nil.
// The body can still be read as before. It is for rules of [Auth.Refused] that
// [HasJSON] cannot express. You must not change the bytes.
//
// It returns nil and leaves the body untouched if the Content-Type is neither
// application/json nor ends in +json, or if the response has no body, has a
// Content-Encoding, announces trailers, switches protocols, or is longer than 64 KiB by
// its Content-Length. A body that net/http decompresses has no Content-Encoding any
// more, so it is read.
//
// It reads only the beginning of the body and returns nil if the body is longer. It
// waits up to 1 s for the body to begin, then up to 50 ms for the end of the object or
// list, neither beyond the request's context, and reads at most 64 KiB. So a rule
// delays a stream of JSON by at most 50 ms. A Read that is still in progress after that
// may set resp.Trailer at any time, so Auth returns a copy of the response.
func PeekJSON(resp *http.Response) []byte {
	if b, ok := resp.Body.(*beginning); ok {
		return b.value
	}
	if !peekable(resp) {
		return nil
	}
	return newBeginning(resp).value
}

// maxLevels bounds the nesting of values, because each level costs one more pass.
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

// peekable reports whether the body may be JSON and may be read before the caller reads
// it. It allocates nothing if the media type is in lower case.
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
		len(resp.Trailer) == 0 // net/http writes their values, which a caller does not expect before it reads
}

// isJSON reports whether a media type is JSON with one value, not with one value a
// line.
func isJSON(contentType string) bool {
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	return media == "application/json" || strings.HasSuffix(media, "+json") && media != "application/stream+json"
}
