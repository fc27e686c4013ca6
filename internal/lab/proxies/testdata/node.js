const crypto = require('crypto'), fs = require('fs'), http = require('http'), http2 = require('http2');

// Reads so many bytes of the body of a refused request, or all of it.
async function read(req, n) {
	for await (const chunk of req.iterator({destroyOnReturn: false})) {
		if ((n -= chunk.length) <= 0) return;
	}
}

const answer = hangUp => async (req, res) => {
	try {
		if (!/stale$/.test(req.headers.authorization)) {
			const hash = crypto.createHash('sha256');
			for await (const chunk of req) hash.update(chunk);
			res.end(hash.digest('hex'));
			return;
		}
		const after = req.headers['refuse-after'];
		if (after !== '0') await read(req, after === undefined ? Infinity : Number(after));
		if (hangUp && req.httpVersionMajor === 1) res.setHeader('Connection', 'close');
		res.statusCode = 401;
		res.end('x'.repeat(Number(req.headers['refusal-length'] || 0)));
	} catch {
		req.destroy(); // the upload was given up
	}
};

const tls = {allowHTTP1: true, cert: fs.readFileSync('{{dir}}/cert.pem'), key: fs.readFileSync('{{dir}}/key.pem')};
http.createServer(answer(false)).listen({{port (http "plain")}}, '127.0.0.1');
http2.createSecureServer(tls, answer(false)).listen({{port (https "plain")}}, '127.0.0.1');
http.createServer(answer(true)).listen({{port (http "close")}}, '127.0.0.1');
http2.createSecureServer(tls, answer(true)).listen({{port (https "close")}}, '127.0.0.1');
