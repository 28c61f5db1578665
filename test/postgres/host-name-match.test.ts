import { describe, expect, it, test } from 'vitest';
import { certificateMatchesHost, namesOfCertificate } from '../../src/postgres/host-name-match.ts';

describe('certificateMatchesHost', () => {
  it.each([
    // The rules of PostgreSQL's own tests (test/ssl/t/001_ssltests.pl).
    ['pg.example.com', { subjectaltname: 'DNS:pg.example.com' }, true],
    ['PG.Example.COM', { subjectaltname: 'DNS:pg.EXAMPLE.com' }, true],
    ['other.example.com', { subjectaltname: 'DNS:a.example.com, DNS:other.example.com' }, true],
    ['a.example.com', { subjectaltname: 'DNS:*.example.com' }, true],
    ['a.b.example.com', { subjectaltname: 'DNS:*.example.com' }, false],
    ['example.com', { subjectaltname: 'DNS:*.example.com' }, false],
    ['.example.com', { subjectaltname: 'DNS:*.example.com' }, false],
    ['ab.example.com', { subjectaltname: 'DNS:a*.example.com' }, false],
    ['a.com', { subjectaltname: 'DNS:*.' }, false],
    ['pg', { subject: { CN: 'pg' } }, true],
    ['pg', { subject: { CN: ['pg', 'other'] } }, true],
    ['other', { subject: { CN: ['pg', 'other'] } }, false],
    // Where there are alternative names of its kind, the common name is only a title.
    ['pg', { subject: { CN: 'pg' }, subjectaltname: 'DNS:other' }, false],
    ['pg', { subject: { CN: 'pg' }, subjectaltname: 'IP Address:10.0.0.1' }, true],
    ['10.0.0.1', { subjectaltname: 'IP Address:10.0.0.1' }, true],
    ['10.0.0.2', { subjectaltname: 'IP Address:10.0.0.1' }, false],
    ['10.0.0.1', { subject: { CN: '10.0.0.1' } }, true],
    ['10.0.0.1', { subject: { CN: '10.0.0.1' }, subjectaltname: 'DNS:pg' }, true],
    ['10.0.0.1', { subject: { CN: '10.0.0.1' }, subjectaltname: 'IP Address:10.0.0.2' }, false],
    ['::1', { subjectaltname: 'IP Address:0:0:0:0:0:0:0:1' }, true],
    ['fe80::1', { subjectaltname: 'IP Address:FE80:0:0:0:0:0:0:1' }, true],
    ['pg', { subjectaltname: 'email:pg, URI:pg' }, false],
    ['pg', { subjectaltname: 'DNS:"pg\\u0000.evil.com"' }, false],
    ['pg', { subjectaltname: 'DNS:"x, DNS:pg"' }, false],
    ['pg', {}, false],
  ])('%s and %j: %s', (host, certificate, expected) => {
    expect(certificateMatchesHost(host, certificate)).toBe(expected);
  });

  test('the names are told', () => {
    const certificate = { subject: { CN: 'pg' }, subjectaltname: 'DNS:pg, DNS:*.pg.example, IP Address:10.0.0.1' };
    expect(namesOfCertificate(certificate)).toEqual(['pg', '*.pg.example', '10.0.0.1']);
  });
});
