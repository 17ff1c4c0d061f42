"""Shape and type annotations of the package are checked throughout the tests; they cost nothing outside them."""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# Python's numeric tower: an int is welcome where a float is asked for.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
install_import_hook("simmim_pl", "tests.conftest.checked")
