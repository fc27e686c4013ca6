vcl 4.1;

backend api {
	.host = "127.0.0.1";
	.port = "{{port api}}";
}

sub vcl_recv {
	if (local.socket == "synth" && req.http.Authorization ~ "stale$") {
		return (synth(401));
	}
	return (pass);
}
