package proxies_test

var servers = []server{
	{
		name: "nginx", config: "nginx.conf", command: []string{"nginx", "-p", "{{dir}}", "-c", "{{dir}}/nginx.conf"},
		version: []string{"nginx", "-v"}, needed: true,
		ways: []way{
			{who: "API, `proxy_request_buffering off`", listens: "streamed"},
			{who: "API, `proxy_request_buffering off`, DPoP", listens: "streamed", client: viaDPoP},
			{who: "API", listens: "buffered"},
			{who: "API in Go, nginx's own `Connection: close`", listens: "close", instead: 502, points: early,
				advice: "`proxy_set_header Connection \"\"`, as in the other rows"},
			{who: "`return 401`", listens: "return"},
			{who: "`auth_request`", listens: "auth_request"},
		},
	},
	{
		name: "HAProxy", config: "haproxy.cfg", command: []string{"haproxy", "-db", "-f", "{{dir}}/haproxy.cfg"},
		version: []string{"haproxy", "-v"}, needed: true,
		ways: []way{
			{who: "API", listens: "streamed"},
			{who: "`http-request deny`", listens: "deny"},
		},
	},
	{
		name: "Squid", config: "squid.conf", command: []string{"squid", "-N", "-n", `suite{{port (http "streamed")}}`, "-f", "{{dir}}/squid.conf"},
		version: []string{"squid", "-v"}, needed: true,
		ways: []way{
			{who: "API", listens: "streamed", without: noHTTP2},
			{who: "`http_access deny`, `deny_info 401`", listens: "deny", without: noHTTP2},
		},
	},
	{
		name: "lighttpd", config: "lighttpd.conf", command: []string{"lighttpd", "-D", "-f", "{{dir}}/lighttpd.conf"},
		version: []string{"lighttpd", "-v"},
		ways: []way{
			{who: "API, `server.stream-request-body = 2`", listens: "streamed", without: noLength},
			{who: "API", listens: "buffered", without: noLength, advice: "over HTTP/2 a length, else 411"},
		},
	},
	{
		name: "Apache", config: "apache.conf", command: []string{"apache2", "-X", "-f", "{{dir}}/apache.conf"},
		version: []string{"apache2", "-v"},
		ways: []way{
			{who: "API, mod_proxy_http", listens: "proxied", instead: 502, points: early, advice: "`Expect: 100-continue`, see below"},
			{who: "API, mod_proxy_http, `Expect: 100-continue`", listens: "proxied", client: withExpect, instead: 502, points: []string{middle},
				advice: "an API that refuses before it reads"},
			{who: "`RewriteRule` with `R=401`", listens: "rewrite"},
		},
	},
	{
		name: "Caddy", config: "Caddyfile", command: []string{"caddy", "run", "--adapter", "caddyfile", "--config", "{{dir}}/Caddyfile"},
		version: []string{"caddy", "version"},
		ways: []way{
			{who: "API", listens: "proxied"},
			{who: "`respond 401`", listens: "respond"},
		},
	},
	{
		name: "Varnish", config: "varnish.vcl",
		command: []string{"varnishd", "-F", "-n", "{{dir}}/varnish", "-j", "none", "-f", "{{dir}}/varnish.vcl",
			"-a", `pass={{http "pass"}}`, "-a", `synth={{http "synth"}}`},
		version: []string{"varnishd", "-V"},
		ways: []way{
			{who: "API", listens: "pass", instead: 503, points: early, advice: "refuse in `vcl_recv`"},
			{who: "`synth(401)`", listens: "synth"},
		},
	},
	{
		name: "H2O", config: "h2o.yaml", command: []string{"h2o", "-c", "{{dir}}/h2o.yaml"},
		version: []string{"h2o", "-v"},
		ways:    []way{{who: "API", listens: "proxied", instead: 502, points: early}},
	},
	{
		name: "nghttpx", config: "nghttpx.conf", command: []string{"nghttpx", "--conf={{dir}}/nghttpx.conf"},
		version: []string{"nghttpx", "-v"},
		ways:    []way{{who: "API", listens: "streamed"}},
	},
	{
		name: "Node", config: "node.js", command: []string{"node", "{{dir}}/node.js"},
		version: []string{"node", "--version"},
		ways: []way{
			{who: "a handler", listens: "plain"},
			{who: "a handler, `Connection: close`", listens: "close"},
		},
	},
	{
		name: "Python", config: "python.py", command: []string{"python3", "{{dir}}/python.py"},
		version: []string{"python3", "--version"},
		ways:    []way{{who: "a handler of http.server", listens: "plain", without: noHTTP2}},
	},
	{
		name: "JDK", config: "jdk.java", command: []string{"java", "{{dir}}/jdk.java"},
		version: []string{"java", "-version"},
		ways:    []way{{who: "a handler of HttpServer", listens: "plain", without: noHTTP2}},
	},
	{
		name: "Hypercorn", config: "asgi.py", command: []string{"hypercorn", "--bind", `{{https "plain"}}`,
			"--insecure-bind", `{{http "plain"}}`, "--certfile", "{{dir}}/cert.pem", "--keyfile", "{{dir}}/key.pem",
			"--log-level", "critical", "{{dir}}/asgi.py:app"},
		version: []string{"/usr/bin/python3", "-c", "from importlib.metadata import version; print(version('hypercorn'))"},
		ways:    []way{{who: "an ASGI application", listens: "plain"}},
	},
}
