from .after_training import check_publishing as check_publishing
from .after_training import destination_of as destination_of
from .after_training import publish_finished as publish_finished
from .leaks import without_secrets as without_secrets
from .publication import push as push
from .upload import Publication as Publication
